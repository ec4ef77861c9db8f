"""What a process of a check does. Run by its path, with a ``Job`` as JSON: see ``processes``.

It uses public names only, as applications do, and imports nothing of the kit: it is started often. What it does goes
into a journal: a line for each thing, in one write, so that a kill leaves it whole or absent.
"""

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Literal, TypeAlias

from busframe import Bus, Context, Queue, Reject, Retry

KILLS = "kills"
"""The body of a message whose handler kills its process, as a bug in a C library does."""

CONCURRENCY = 5
PREFETCH = 10

Moment: TypeAlias = Literal["before the copy", "after the copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process shall do.

    Attributes:
        does: handle a queue's messages, reject them, publish some to it all at once, or replay its dead letters.
        queue: by the application's name.
        journal: the file to write to.
        prefix: of the names on the broker.
        preload: see ``Harness.preload``.
        ordering: of the queue.
        work_s: how long a handler takes.
        max_attempts: of its policy.
        max_deliveries: of the crash guard.
        replay_per_s: how many letters a second.
        ids: of the messages to publish.
        dies_after: it kills itself after so many publishes, or at the so-manyth rejected message; 0: never.
        dies: of a rejected message: just when.
    """

    does: Literal["handle", "reject", "publish", "replay"] = "handle"
    queue: str
    journal: str
    prefix: str
    preload: tuple[str, ...] = ()
    ordering: Literal["none", "key"] = "none"
    work_s: float = 0.0
    max_attempts: int = 5
    max_deliveries: int = 20
    replay_per_s: float = 0.0
    ids: tuple[str, ...] = ()
    dies_after: int = 0
    dies: Moment = "after the copy"


def die() -> None:
    """At once, with nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Do what the command line says."""
    job = Job(**json.loads(sys.argv[1]))
    if job.does == "reject" and job.dies_after:  # first: what a mutant wraps is to die, not what wraps it
        from busframe.conformance.dying import die_at_dead_letter

        die_at_dead_letter(os.environ["BUSFRAME_URL"].partition(":")[0], job.dies_after, job.dies)
    if job.preload:
        resolve_name(job.preload[0])(*job.preload[1:])
    queue = Queue(job.queue, str)
    bus = Bus(
        config={"prefix": job.prefix, "max_deliveries": job.max_deliveries, "connect_timeout_s": 20},
        uses=[queue],
    )
    if job.does == "replay":
        asyncio.run(_replay(bus, queue, job))
    elif job.does == "publish":
        asyncio.run(_publish(bus, queue, job))
    else:
        return _handle(bus, queue, job)
    return 0


def _journal(job: Job) -> int:
    return os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _write(journal: int, what: str, message: str = "-", attempt: int = 0, redelivered: bool = False) -> None:
    os.write(journal, f"{what} {message} {os.getpid()} {attempt} {redelivered:d} {time.time()}\n".encode())


def _handle(bus: Bus, queue: Queue[str], job: Job) -> int:
    journal = _journal(job)

    policy = Retry(max_attempts=job.max_attempts)

    @bus.handle(queue, ordering=job.ordering, concurrency=CONCURRENCY, prefetch=PREFETCH, retry=policy)
    async def work(body: str, ctx: Context) -> None:
        _write(journal, "began", ctx.message.id, ctx.attempt, ctx.redelivered)
        if body == KILLS:
            die()
        if job.does == "reject":
            raise Reject("never")
        await asyncio.sleep(job.work_s)
        _write(journal, "done", ctx.message.id, ctx.attempt)

    return bus.run(started=lambda worker: _write(journal, "up"))


async def _replay(bus: Bus, queue: Queue[str], job: Job) -> None:
    async with bus:
        box = bus.dead_letters(queue)
        await box.replay([letter async for letter in box.list(limit=1000)], rate_per_s=job.replay_per_s)


async def _publish(bus: Bus, queue: Queue[str], job: Job) -> None:
    journal, left = _journal(job), job.dies_after

    async def one(id: str) -> None:
        nonlocal left
        await bus.publish(queue, "x", id=id)
        _write(journal, "published", id)
        left -= 1
        if not left:
            die()

    async with bus:
        await asyncio.gather(*map(one, job.ids))


if __name__ == "__main__":
    sys.exit(main())
