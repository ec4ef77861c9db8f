"""Workers as processes of their own, for checks that kill them.

What they do goes into a journal that the check reads: a line for each message that was handled, in one write, so that
a kill leaves it whole or absent, and so that the account does not rest on the framework. They use public names only, as
applications do. Run as ``python -m busframe.conformance.processes <what to do, as JSON>``, with the broker's URL in the
environment: command lines are for everybody to see.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KILLS = "kills"
"""The body of a message whose handler kills its process, as a bug in a C library does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process shall do.

    Attributes:
        queue: by the application's name.
        journal: the file to write to.
        prefix: of the names on the broker.
        work_s: how long a handler takes.
        max_attempts: of its policy.
        max_deliveries: of the crash guard.
        replay_per_s: replay the queue's dead letters at this rate and do nothing else; 0: handle the queue.
    """

    queue: str
    journal: str
    prefix: str
    work_s: float = 0.0
    max_attempts: int = 5
    max_deliveries: int = 20
    replay_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal.

    Attributes:
        message: its id.
        pid: of the process that handled it.
        attempt: which one it was.
        at: when, in seconds since the epoch.
    """

    message: str
    pid: int
    attempt: int
    at: float


CONCURRENCY = 5
PREFETCH = 10


def main(job: Job) -> int:
    """Do it."""
    from busframe import Bus, Context, Queue, Retry

    queue = Queue(job.queue, str)
    bus = Bus(
        config={"prefix": job.prefix, "max_deliveries": job.max_deliveries, "connect_timeout_s": 20},
        uses=[queue],
    )
    if job.replay_per_s:

        async def replay() -> None:
            async with bus:
                box = bus.dead_letters(queue)
                await box.replay([letter async for letter in box.list(limit=1000)], rate_per_s=job.replay_per_s)

        asyncio.run(replay())
        return 0

    journal = os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    policy = Retry(max_attempts=job.max_attempts)

    @bus.handle(queue, concurrency=CONCURRENCY, prefetch=PREFETCH, retry=policy)
    async def work(body: str, ctx: Context) -> None:
        if body == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(job.work_s)
        os.write(journal, f"{ctx.message.id} {os.getpid()} {ctx.attempt} {time.time()}\n".encode())

    return bus.run()


class Crew:
    """The processes of one check.

    Args:
        url: of the broker.
        folder: for journal and logs; the caller removes it.
        common: what all of them are told.
    """

    def __init__(self, url: str, folder: Path, **common: Any) -> None:
        self._environment = {**os.environ, "BUSFRAME_URL": url}
        self._folder = folder
        self._journal = folder / "journal"
        self._common = common
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, **more: Any) -> asyncio.subprocess.Process:
        """Start one more."""
        job = Job(**self._common, journal=str(self._journal), **more)
        with (self._folder / f"{len(self._processes)}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __name__, json.dumps(asdict(job))),
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        self._processes.append(process)
        return process

    @property
    def lines(self) -> list[Line]:
        """What the handlers wrote, in order."""
        if not self._journal.exists():
            return []
        found = []
        for text in self._journal.read_text().splitlines():
            message, pid, attempt, at = text.split()
            found.append(Line(message, int(pid), int(attempt), float(at)))
        return found

    def handled_by(self, process: asyncio.subprocess.Process) -> int:
        """How many one of them has handled."""
        return sum(line.pid == process.pid for line in self.lines)

    def logs(self) -> str:
        """What the last ones printed, for a failure's text."""
        logs = sorted(self._folder.glob("*.log"), key=lambda log: int(log.stem))[-3:]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    async def end(self) -> None:
        """Kill what still runs, and wait for it."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def crew(url: str, **common: Any) -> AsyncIterator[Crew]:
    """Processes that are gone afterwards, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="busframe-kit-") as folder:
        found = Crew(url, Path(folder), **common)
        try:
            yield found
        except AssertionError as error:
            error.add_note(found.logs())
            raise
        finally:
            await found.end()


if __name__ == "__main__":
    sys.exit(main(Job(**json.loads(sys.argv[1]))))
