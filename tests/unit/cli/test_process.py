"""The command as a process of its own: exit codes, signals, streams."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO

import pytest

import busframe
from busframe.runtime.signals import ECHO_S

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

OWN_BROKER = """
from busframe import Bus, Queue
from busframe.memory import MemoryTransport
bus = Bus(transport=MemoryTransport, uses=[Queue("jobs", str)])
"""

pytestmark = pytest.mark.slow


def start(
    folder: Path, *words: str, sleep_s: float = 0.0, stdin: int | None = None, stderr: int = subprocess.PIPE
) -> "subprocess.Popen[str]":
    """Start ``busframe`` in a folder that has app.py."""
    (folder / "app.py").write_text(APP.replace("{sleep_s}", str(sleep_s)))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSFRAME_")}
    environ["PYTHONPATH"] = str(Path(busframe.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "busframe.cli", *words],
        cwd=folder,
        env=environ,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def read_until(stream: IO[str] | None, text: str, times: int = 1) -> str:
    """Read lines until a text has come so many times; returns them."""
    assert stream is not None
    lines = ""
    while lines.count(text) < times:
        line = stream.readline()
        assert line, f"it ended after {lines!r}"
        lines += line
    return lines


def test_ends_when_idle(tmp_path: Path) -> None:
    """It handles what there is and ends with 0."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", "--until-idle", "0.1")
    out, error = worker.communicate(timeout=30)
    assert (worker.returncode, "worked" in out) == (0, True), error


def test_first_signal_drains(tmp_path: Path) -> None:
    """After SIGTERM the running handler finishes, what was done is told, and it ends with 0."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", sleep_s=0.3)
    read_until(worker.stdout, "working")
    worker.send_signal(signal.SIGTERM)
    out, error = worker.communicate(timeout=30)
    assert worker.returncode == 0, error
    assert "worked" in out
    assert "dead-lettered" in out


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    """After a second signal nothing is waited for, and it ends with 1."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", sleep_s=60)
    read_until(worker.stdout, "working")
    worker.send_signal(signal.SIGINT)
    read_until(worker.stderr, "draining")
    time.sleep(2 * ECHO_S)  # what comes sooner is an echo of the first
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=30)
    assert worker.returncode == 1


def test_drain_timeout(tmp_path: Path) -> None:
    """A handler that does not finish within the drain time-out is stopped, and the exit code is 1."""
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", "--drain-timeout", "0.1", sleep_s=60)
    read_until(worker.stdout, "working")
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    assert worker.returncode == 1


def test_processes_end_together(tmp_path: Path) -> None:
    """--processes runs so many workers; a signal drains all of them, and the exit code is the worst."""
    words = ("worker", "app:bus", "--url", "memory://", "--processes", "2")
    worker = start(tmp_path, *words, sleep_s=0.2)
    begun = read_until(worker.stdout, "working", 2)
    worker.send_signal(signal.SIGTERM)
    out, error = worker.communicate(timeout=30)
    assert worker.returncode == 0, error
    assert (begun + out).count("worked") == 2
    assert all(f"process {number}" in out for number in (1, 2))


def test_second_signal_reaches_all_processes(tmp_path: Path) -> None:
    """A second signal stops all of them at once."""
    words = ("worker", "app:bus", "--url", "memory://", "--processes", "2")
    worker = start(tmp_path, *words, sleep_s=60)
    read_until(worker.stdout, "working", 2)
    worker.send_signal(signal.SIGINT)
    read_until(worker.stderr, "draining: ", 2)
    time.sleep(2 * ECHO_S)
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=30)
    assert worker.returncode == 1


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """If the parent is killed, the workers drain by themselves: nobody would tell them any more."""
    words = ("worker", "app:bus", "--url", "memory://", "--processes", "2")
    worker = start(tmp_path, *words, sleep_s=0.2)
    begun = read_until(worker.stdout, "working", 2)
    worker.kill()
    out, _ = worker.communicate(timeout=30)  # returns when the last of them has closed its output
    assert (begun + out).count("worked") == 2


def test_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    """One process that fails ends all, with its exit code: fewer workers than asked for would go unseen."""
    (tmp_path / "busframe.toml").write_text('url = "memory://"\n')
    odd = "import sys\nfrom app import bus\nif sys.argv[-2:] == ['--process', '2']: raise ValueError('odd')\n"
    (tmp_path / "odd.py").write_text(odd)
    worker = start(tmp_path, "worker", "odd:bus", "--processes", "2")
    _, error = worker.communicate(timeout=30)
    assert worker.returncode == 2
    assert "importing odd failed: ValueError: odd" in error


def test_health_port(tmp_path: Path) -> None:
    """Probes are answered once every source is being consumed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    worker = start(tmp_path, "worker", "app:bus", "--url", "memory://", "--health-port", str(port))
    read_until(worker.stdout, "worked")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
        assert (answer.status, json.load(answer)["sources"]) == (200, {"jobs": "consuming"})
    worker.send_signal(signal.SIGTERM)
    _, error = worker.communicate(timeout=30)
    assert worker.returncode == 0, error
    assert "Traceback" not in error


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """Where standard error is a terminal it shows the progress; the ids go to standard output."""
    import pty

    (tmp_path / "own.py").write_text(OWN_BROKER)
    terminal, standard_error = pty.openpty()
    process = start(tmp_path, "publish", "own:bus", "jobs", "-", stdin=subprocess.PIPE, stderr=standard_error)
    os.close(standard_error)
    out, _ = process.communicate("a\nb\nc\n", timeout=30)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    assert process.returncode == 0, shown
    assert len(out.splitlines()) == 3
    assert b"confirmed" in shown
    assert b"3 confirmed by jobs" in shown


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
