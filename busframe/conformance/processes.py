"""Processes of their own, for checks that kill them.

What they do goes into a journal that the check reads, so that the account does not rest on the framework. The broker's
URL is in their environment: command lines are for everybody to see.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from busframe.conformance import program
from busframe.conformance.check import Violation
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import PREFIX, World
from busframe.model.destination import Queue

START_S = 30.0
"""How long processes may take to start and do their first work on a machine that is loaded."""

LATE_S = 2.0
"""By how much later than it claims a transport may acknowledge, on such a machine: only duplicates depend on it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal, of a kind: ``up`` by a worker, ``began`` or ``done`` by a handler, or ``published``.

    Attributes:
        message: its id; ``-``: none.
        pid: of the process.
        attempt: which one it was.
        redelivered: whether the handler was told that it may have begun before.
        at: when, in seconds since the epoch.
    """

    message: str
    pid: int
    attempt: int
    redelivered: bool
    at: float


class Crew:
    """The processes of one check.

    Args:
        world: of the check.
        folder: for journal and logs; the caller removes it.
        common: what all of them are told.
    """

    def __init__(self, world: World, folder: Path, common: dict[str, Any]) -> None:
        self._world = world
        self._environment = {**os.environ, "BUSFRAME_URL": world.harness.url or ""}
        self._folder = folder
        self._journal = folder / "journal"
        self._common = {**common, "prefix": PREFIX, "preload": world.harness.preload}
        self._processes: list[Process] = []
        self._read = 0
        self._lines: defaultdict[str, list[Line]] = defaultdict(list)

    async def start(self, **more: Any) -> Process:
        """Start one more."""
        job = program.Job(**self._common, journal=str(self._journal), **more)
        with (self._folder / f"{len(self._processes)}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", program.__file__, json.dumps(asdict(job))),
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        self._processes.append(process)
        return process

    async def ended(self, process: Process, *codes: int) -> None:
        """Wait until a process ends, and demand that it does with such an exit code."""
        try:
            async with asyncio.timeout(START_S):
                code = await process.wait()
        except TimeoutError:
            raise Violation(f"a process was to end, and did not within {START_S:g} s") from None
        if code not in codes:
            raise Violation(f"a process ended with exit code {code}, not {' or '.join(map(str, codes))}")

    async def died(self, process: Process) -> None:
        """Wait until a process has killed itself."""
        await self.ended(process, -signal.SIGKILL)

    def look(self, what: str) -> list[Line]:
        """The lines of one kind so far, in order. What was handled to the end goes into the history."""
        if self._journal.exists():
            with self._journal.open("rb") as journal:
                journal.seek(self._read)
                for line in journal:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._read += len(line)
                    kind, message, pid, attempt, redelivered, at = line.decode().split()
                    self._lines[kind].append(Line(message, int(pid), int(attempt), redelivered == "1", float(at)))
                    if kind == "done":
                        self._world.history.done(message, pid)
        return self._lines[what]

    def handled_by(self, process: Process) -> int:
        """How many one of them has handled."""
        return sum(line.pid == process.pid for line in self.look("done"))

    def may_come_back(self, killed: Mapping[int, float], ack_lag_s: float) -> int:
        """How many killed processes (pid → when) had handled so shortly before that the broker may not know of it."""
        if not ack_lag_s:
            return 0
        lag_s = ack_lag_s + LATE_S
        return sum(line.pid in killed and line.at > killed[line.pid] - lag_s for line in self.look("done"))

    def at_work(self, process: Process) -> bool:
        """Whether it is within a handler; of one that was killed, whether it was."""
        began = {line.message for line in self.look("began") if line.pid == process.pid}
        return bool(began - {line.message for line in self.look("done") if line.pid == process.pid})

    async def until(self, true: Callable[[], Any], what: str) -> None:
        """Wait for what processes do first: those of a mutant start no faster than others. None may fail."""

        def or_failed() -> Any:
            codes = {process.returncode for process in self._processes} - {None, 0, -signal.SIGKILL}
            if codes:
                raise Violation(f"a process ended by itself, with exit code {codes.pop()}")
            return true()

        await self._world.until(or_failed, what, within_s=START_S / min(1.0, self._world.harness.patience))

    async def all_handled(self) -> None:
        """Wait until each confirmed message is handled, as long as some are."""
        confirmed = set(self._world.history.confirmed)

        def missing() -> int:
            return len(confirmed - {line.message for line in self.look("done")})

        while left := missing():
            await self._world.until(
                lambda: missing() < left,
                f"one more is handled, of {left} that are missing",
                within_s=START_S,
            )

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
async def crew(world: World, queue: Queue[Any], **common: Any) -> AsyncIterator[Crew]:
    """Processes that work at one queue, and are gone afterwards, whatever happened."""
    if world.harness.url is None:
        raise NotRunnable(f"{world.harness.name} lives in this process: no other one can be started on it")
    with tempfile.TemporaryDirectory(prefix="busframe-kit-") as folder:
        found = Crew(world, Path(folder), {"queue": queue.name, **common})
        try:
            yield found
        except AssertionError as error:
            error.add_note(found.logs())
            raise
        finally:
            await found.end()
