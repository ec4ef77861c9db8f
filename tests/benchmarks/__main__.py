"""``python -m tests.benchmarks [NAME …]``: all measurements, or those that are named."""

import sys
from importlib import import_module

NAMES = ("imports", "dispatch", "rabbitmq", "kafka")


def main(names: list[str]) -> None:
    """Run the named ones, or all."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: there are {', '.join(NAMES)}")
    for name in names or NAMES:
        import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
