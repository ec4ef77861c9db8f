"""The application under fault: it writes down what it did, so that the account does not rest on the framework."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from busframe import Bus, Context, Message, Queue, Retry

JOURNAL = Path(os.environ.get("BUSFRAME_TEST_JOURNAL", "journal"))
WORK_S = float(os.environ.get("BUSFRAME_TEST_WORK_S", "0"))
MORE_WORK_S = float(os.environ.get("BUSFRAME_TEST_MORE_WORK_S", "0"))
CONCURRENCY = 10
PREFETCH = 20


class Job(BaseModel):
    """One piece of work."""

    n: int


def write(line: str) -> None:
    """Append one line, in one write, so that a kill leaves it whole or absent."""
    with JOURNAL.open("a") as journal:
        journal.write(line + "\n")


def held(n: int) -> str:
    """While a file of this name is beside the journal, job *n* is not finished."""
    return f"held-{n}"


jobs = Queue("jobs", Job)
flaky = Queue("flaky", Job)
deadly = Queue("deadly", Job)
bus = Bus(uses=[jobs, flaky, deadly])


@bus.handle(jobs, concurrency=CONCURRENCY, prefetch=PREFETCH)
async def work(job: Job, ctx: Context) -> None:
    """Take a while, and as long as it is held; then write it down."""
    begun = time.monotonic()
    if WORK_S or MORE_WORK_S:
        await asyncio.sleep(WORK_S + random.uniform(0, MORE_WORK_S))
    while JOURNAL.with_name(held(job.n)).exists():  # noqa: ASYNC110  # it is made and removed by another process
        await asyncio.sleep(0.05)
    write(f"handled {job.n} {ctx.attempt} {os.getpid()} {begun} {time.monotonic()}")


@bus.handle(flaky, retry=Retry(max_attempts=3, delay_s=0.2, factor=2.0, jitter=0.0))
async def fail_twice(job: Job, ctx: Context) -> None:
    """Fail on job 0 until the third attempt, and on negative ones for ever."""
    write(f"tried {job.n} {ctx.attempt} {asyncio.get_running_loop().time()}")
    if job.n < 0 or (job.n == 0 and ctx.attempt < 3):
        raise ConnectionError(f"attempt {ctx.attempt}")


@bus.handle(deadly)
async def kill_on_zero(job: Job) -> None:
    """Job 0 kills the process, as a bug in a C library does."""
    if job.n == 0:
        write("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    write(f"survived {job.n}")


@bus.handle(deadly.dead_letters)
async def bury(letter: Message) -> None:
    """Write down what was given up, and why."""
    assert letter.dead is not None
    write(f"buried {letter.body.decode()} {letter.dead.reason}")
