"""Runs a server by hand: `python -m tests.brokers rabbitmq [--port 5672]`, until Ctrl-C."""

import argparse
import signal
import sys
import threading

from tests.brokers.find import BROKERS, broker, running
from tests.brokers.server import Unavailable


def main() -> int:
    """Start the named server, print its addresses, and wait for a signal."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=__doc__)
    parser.add_argument("name", choices=BROKERS)
    parser.add_argument("--port", type=int, help="where it listens on 127.0.0.1; default: a free port")
    options = parser.parse_args()

    told_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told_to_end.set())
    try:
        with running(broker(options.name), port=options.port) as server:
            for name, value in vars(server).items():
                if name.endswith("url"):
                    sys.stdout.write(f"{name}: {value}\n")
            sys.stdout.flush()
            told_to_end.wait()
    except Unavailable as reason:
        sys.stderr.write(f"no {options.name} server: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
