"""Several workers side by side: each a process of its own, all with one beginning and one end.

The processes are in groups of their own: a Ctrl-C in a terminal would otherwise reach them twice, from the terminal and
from here, and a second signal means "stop at once". Each has the read end of a pipe whose write end is only held here:
if this process is killed, the pipe ends, and then they drain by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from busframe.cli.failure import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_WATCHED = "_BUSFRAME_PARENT"  # says which file descriptor ends with the process that started this one


def run_processes(count: int, words: Sequence[str]) -> int:
    """Run ``busframe`` with these words so many times, until all have ended.

    A signal tells all of them to drain, a second one to stop at once. If one ends with an error, the others are told to
    end: fewer workers than were asked for would be a failure that nobody sees.

    Args:
        count: how many.
        words: of each; ``--process`` with its number is added.

    Returns:
        The worst of their exit codes.
    """
    reader, writer = os.pipe()
    children: list[subprocess.Popen[bytes]] = []
    ended = threading.Semaphore(0)
    ending = False

    def end() -> None:
        nonlocal ending
        ending = True
        for child in children:
            if child.poll() is None:
                child.terminate()

    def wait(child: subprocess.Popen[bytes]) -> None:
        child.wait()
        ended.release()

    try:
        with _on_signal(end):
            while len(children) < count and not ending:
                child = subprocess.Popen(
                    [sys.executable, "-m", "busframe.cli", *words, "--process", str(len(children) + 1)],
                    env={**os.environ, _WATCHED: str(reader)},
                    pass_fds=[reader],
                    start_new_session=True,
                )
                children.append(child)
                threading.Thread(target=wait, args=[child], daemon=True).start()
            for _ in children:
                while not ended.acquire(timeout=0.5):
                    pass  # a signal handler runs only between calls that return
                if not ending and any(child.poll() for child in children):
                    end()
    finally:
        os.close(reader)
        os.close(writer)
    return max((_exit_code(child.returncode, ending) for child in children), default=0)


def end_with_parent() -> None:
    """In one of the processes: drain when the process that started it is gone. Elsewhere this does nothing."""
    reader = os.environ.pop(_WATCHED, None)
    if reader is None:
        return

    def watch() -> None:
        os.read(int(reader), 1)  # nothing is ever written: it returns when the pipe ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="busframe parent", daemon=True).start()


@contextmanager
def _on_signal(act: Callable[[], None]) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda *_: act()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(returncode: int, told: bool) -> int:
    if returncode == -signal.SIGTERM and told:
        return 0  # it was told before it had begun
    return returncode if returncode >= 0 else FAILED  # killed by a signal
