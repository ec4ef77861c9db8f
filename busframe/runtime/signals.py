"""A worker as a process: it ends by signal, drained."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("busframe.worker")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 0.2
"""Who stops a process by a wrapper often signals it twice: as the wrapper's child, and as one of its group."""


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first SIGTERM or SIGINT; a second one ends the process at once, with exit code 1.

    At once means ``os._exit`` after a flush, so that a thread that hangs cannot hold the process.
    """
    loop = asyncio.get_running_loop()
    first_at: float | None = None

    def received(number: int) -> None:
        nonlocal first_at
        name = signal.Signals(number).name
        if first_at is None:
            first_at = loop.time()
            logger.info("%s: draining; once more to stop at once", name)
            stop()
        elif loop.time() - first_at > ECHO_S:
            logger.warning("%s again: stopped at once; what was running is delivered again", name)
            exit_now(1)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals: whoever runs a worker in another one stops it otherwise
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        try:
            loop.add_signal_handler(number, received, number)
        except (NotImplementedError, RuntimeError):  # Windows
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(received, number))
    try:
        yield
    finally:
        for number in SIGNALS:
            try:
                loop.remove_signal_handler(number)
            except (NotImplementedError, RuntimeError):
                pass
            if previous[number] is not None:
                signal.signal(number, previous[number])


def exit_now(code: int) -> None:
    """End the process without waiting for its threads; what was logged and printed is flushed."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
