"""The command as a process of its own: exit codes, signals, streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import busframe

APP = """
import asyncio
from busframe import Bus, Queue
from contextlib import asynccontextmanager

jobs = Queue("jobs", str)

@asynccontextmanager
async def lifespan(bus):
    await bus.publish(jobs, "job")
    yield

bus = Bus(lifespan=lifespan)

@bus.handle(jobs)
async def work(job: str) -> None:
    print("working", flush=True)
    await asyncio.sleep({sleep_s})
    print("worked", flush=True)
"""

pytestmark = pytest.mark.slow


def start(folder: Path, *words: str, sleep_s: float = 0.0) -> "subprocess.Popen[str]":
    """Start ``busframe`` in a folder that has app.py."""
    (folder / "app.py").write_text(APP.replace("{sleep_s}", str(sleep_s)))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSFRAME_")}
    environ["PYTHONPATH"] = str(Path(busframe.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", "from busframe.cli import main; main()", *words],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ends_when_idle(tmp_path: Path) -> None:
    """It handles what there is and ends with 0."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", "--until-idle", "0.1")
    out, error = worker.communicate(timeout=30)
    assert (worker.returncode, "worked" in out) == (0, True), error


def test_first_signal_drains(tmp_path: Path) -> None:
    """After SIGTERM the running handler finishes, what was done is told, and it ends with 0."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", sleep_s=0.3)
    assert worker.stdout is not None
    while "working" not in worker.stdout.readline():
        pass
    worker.send_signal(signal.SIGTERM)
    out, error = worker.communicate(timeout=30)
    assert worker.returncode == 0, error
    assert "worked" in out
    assert "dead-lettered" in out


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    """After a second signal nothing is waited for, and it ends with 1."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", sleep_s=60)
    assert worker.stdout is not None
    assert worker.stderr is not None
    while "working" not in worker.stdout.readline():
        pass
    worker.send_signal(signal.SIGINT)
    while "draining" not in worker.stderr.readline():
        pass
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=30)
    assert worker.returncode == 1


def test_drain_timeout(tmp_path: Path) -> None:
    """A handler that does not finish within the drain time-out is stopped, and the exit code is 1."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", "--drain-timeout", "0.1", sleep_s=60)
    assert worker.stdout is not None
    while "working" not in worker.stdout.readline():
        pass
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    assert worker.returncode == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("worker", "app:bus"), 2, "no broker is configured"),
        (("worker", "app:bsu", "--url", "memory://"), 2, "it has the bus bus: write app:bus"),
        (("worker", "ap:bus", "--url", "memory://"), 2, "did you mean app?"),
        (("worker", "app:bus", "--url", "nosuchscheme://h"), 2, "no installed plugin takes nosuchscheme://"),
        (("publish", "memory://", "queue:jobs", "x"), 2, "would reach nobody"),
        (("nosuchcommand",), 2, "No such command"),
    ],
)
def test_errors_are_one_message(tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    """An error is one message on standard error, without a traceback, and nothing on standard output."""
    process = start(tmp_path, *words)
    out, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert says in error
    assert "Traceback" not in error
    assert out == ""
