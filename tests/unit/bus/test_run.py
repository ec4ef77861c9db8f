"""``bus.run()``: a worker as a process."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO

import pytest

from busframe import Bus, Queue
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.runtime.signals import ECHO_S

JOBS = Queue("jobs", str)

PROGRAM = """
import asyncio, logging, os, sys, time
from busframe import Bus, Context, Queue

logging.basicConfig(level="INFO", format="%(message)s")
mode = sys.argv[1]
jobs = Queue("jobs", str)
bus = Bus("memory://", config={"drain_timeout_s": 0.1 if mode in ("cancelled", "thread") else 20})

def say(text):
    os.write(1, f"{text}\\n".encode())

if mode == "thread":
    @bus.handle(jobs)
    def handle(job: str) -> None:
        say("started")
        time.sleep(60)
else:
    @bus.handle(jobs)
    async def handle(job: str) -> None:
        say("started")
        try:
            await asyncio.sleep({"drains": 0.3, "idle": 0.0}.get(mode, 60))
            say("finished")
        except asyncio.CancelledError:
            say("cancelled")
            raise

async def publish():
    await bus.publish(jobs, "a")

def started(worker):
    global task
    task = asyncio.get_running_loop().create_task(publish())

code = bus.run(until_idle_s=0.2 if mode == "idle" else None, started=started)
say(f"exit {code}")
sys.exit(code)
"""


def start(mode: str) -> "subprocess.Popen[str]":
    """Start a worker process, and wait until its handler runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("BUSFRAME_")},
    )
    assert line(process.stdout) == "started"
    return process


def line(stream: IO[str] | None) -> str:
    """The next line of a stream."""
    assert stream is not None
    return stream.readline().strip()


def end(process: "subprocess.Popen[str]") -> tuple[int, list[str], str]:
    """Exit code, what else was said, and the log."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out, process.stderr as log:  # not communicate(): a part of it was read already
        said = out.read().splitlines(), log.read()
    return process.wait(30), *said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    """The handler that runs finishes first."""
    process = start("drains")
    process.send_signal(number)
    code, said, log = end(process)
    assert (code, said) == (0, ["finished", "exit 0"])
    assert number.name in log


@pytest.mark.slow
def test_handlers_that_had_to_be_cancelled_are_an_exit_code_of_1() -> None:
    """The drain's time-out was over."""
    process = start("cancelled")
    process.send_signal(signal.SIGTERM)
    code, said, _ = end(process)
    assert (code, said) == (1, ["cancelled", "exit 1"])


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_with_1() -> None:
    """It does not wait for the drain, and what was logged is there."""
    process = start("hangs")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    log = ""
    while "draining; once more" not in log:
        log = process.stderr.readline()
        assert log, "the first signal was not logged"
    process.send_signal(signal.SIGTERM)  # an echo of the first one, as wrappers make
    time.sleep(2 * ECHO_S)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, said, log = end(process)
    assert (code, said) == (1, [])
    assert "stopped at once" in log


@pytest.mark.slow
def test_a_thread_that_hangs_does_not_hold_the_process() -> None:
    """After the drain's time-out the process ends without it, with 1."""
    process = start("thread")
    process.send_signal(signal.SIGTERM)
    code, said, log = end(process)
    assert (code, said) == (1, [])
    assert "still run in threads" in log


@pytest.mark.slow
def test_until_idle_ends_with_0_when_nothing_is_left_to_do() -> None:
    """For jobs that work through a queue and end."""
    process = start("idle")
    assert end(process)[:2] == (0, ["finished", "exit 0"])


def test_it_runs_in_another_thread_than_the_main_one() -> None:
    """Without signals, which only the main thread gets."""
    broker = MemoryBroker()
    bus = Bus(transport=lambda host: MemoryTransport(host, broker))
    seen: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async def fill() -> None:
        async with bus:
            await bus.publish(JOBS, "a")

    import asyncio

    asyncio.run(fill())
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(bus.run(until_idle_s=0.05)))
    thread.start()
    thread.join(10)
    assert codes == [0]
    assert seen == ["a"]


def test_the_signal_handlers_of_the_program_are_put_back() -> None:
    """A program that runs a worker for a while has its own handlers again afterwards."""
    broker = MemoryBroker()
    bus = Bus(transport=lambda host: MemoryTransport(host, broker))

    @bus.handle(JOBS)
    async def handle(job: str) -> None: ...

    before = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    assert bus.run(until_idle_s=0.01) == 0
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == before
