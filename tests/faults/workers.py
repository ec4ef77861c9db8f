"""Workers as processes: started by the command line, as users do, and watched through what they write down."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Journal:
    """What handlers and publishers wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._lines: dict[str, list[list[str]]] = {}

    def lines(self, word: str) -> list[list[str]]:
        """The lines that begin with a word, without it."""
        if self.path.exists():
            with self.path.open("rb") as journal:
                journal.seek(self._read)
                for line in journal:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._read += len(line)
                    first, *rest = line.decode().split()
                    self._lines.setdefault(first, []).append(rest)
        return self._lines.setdefault(word, [])

    def counts(self, word: str, place: int = 0) -> Counter[int]:
        """How often each number stands at a place of the lines with a word."""
        return Counter(int(rest[place]) for rest in self.lines(word))


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for something, and say what it was when it does not come."""
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Processes:
    """The processes of one test, all with one broker and one journal."""

    def __init__(self, url: str, folder: Path, **environment: str) -> None:
        self.journal = Journal(folder / "journal")
        self._folder = folder
        self._environment = (
            os.environ
            | environment
            | {
                "BUSFRAME_URL": url,
                "BUSFRAME_TEST_JOURNAL": str(self.journal.path),
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            }
        )
        self._running: list[subprocess.Popen[bytes]] = []
        self._started = 0

    def start(self, *arguments: str, stdin: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command of busframe; its output goes to a file of the test's folder."""
        return self._start(arguments[0], [sys.executable, "-m", "busframe", *arguments], stdin)

    def _start(self, name: str, command: list[str], stdin: Path | None) -> subprocess.Popen[bytes]:
        self._started += 1
        with (
            (self._folder / f"{self._started}-{name}.log").open("wb") as log,
            (stdin or Path(os.devnull)).open("rb") as given,
        ):
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=given, stdout=log, stderr=subprocess.STDOUT
            )
        self._running.append(process)
        return process

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        return self.start("worker", "tests.faults.app:bus", *arguments)

    def publishers(self) -> subprocess.Popen[bytes]:
        """Start a hundred publishers, in one process, until its SIGTERM."""
        return self._start("publishers", [sys.executable, "-m", "tests.faults.publishers"], None)

    def publish(self, queue: str, numbers: range | list[int]) -> subprocess.Popen[bytes]:
        """Start publishing numbered jobs, as JSON lines from a file."""
        lines = self._folder / f"{queue}-{len(self._running)}.jsonl"
        lines.write_text("".join(f'{{"n": {n}}}\n' for n in numbers))
        return self.start("publish", "tests.faults.app:bus", queue, "-", stdin=lines)

    def logs(self) -> str:
        """Everything that they printed, for a failed assertion."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self._folder.glob("*.log")))

    def logs_of(self, name: str) -> list[Path]:
        """The files with what was printed by processes of a name, each one's own, in the order of their start."""
        return sorted(self._folder.glob(f"*-{name}.log"), key=lambda log: int(log.name.split("-")[0]))

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def processes(url: str, folder: Path, **environment: str) -> Iterator[Processes]:
    """Processes that are gone afterwards, whatever happened."""
    running = Processes(url, folder, **environment)
    try:
        yield running
    except AssertionError as error:
        error.add_note(running.logs())
        raise
    finally:
        running.stop()


def finish(process: subprocess.Popen[bytes], timeout_s: float = 60.0) -> int:
    """Wait for a process to end by itself; its exit code."""
    return process.wait(timeout_s)
