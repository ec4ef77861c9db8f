"""What runs a bus's handlers."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from busframe.errors import ConfigurationError
from busframe.logic.lifecycle import READY, SourceState
from busframe.model.destination import Source
from busframe.runtime.source import SourceRunner
from busframe.spi.transport import Host

logger = logging.getLogger("busframe.worker")


@dataclass(frozen=True, slots=True)
class Health:
    """How a bus is.

    Attributes:
        ready: it is open, and every source that it runs is being consumed (or paused).
        sources: the state of each source, by its text form.
        problems: what somebody should know though it works: handlers that outlive their time-out, parked messages,
            messages that the broker has deleted.
    """

    ready: bool
    sources: Mapping[str, SourceState] = field(default_factory=dict)
    problems: Sequence[str] = ()


class Worker:
    """Runs all sources of a bus over one transport. Made by ``bus.worker()``."""

    def __init__(self, runners: Sequence[SourceRunner], host: Host, drain_timeout_s: float) -> None:
        self._runners = tuple(runners)
        self._host = host
        self._drain_timeout_s = drain_timeout_s
        self._draining: asyncio.Task[bool] | None = None

    def __repr__(self) -> str:
        return f"<Worker {' '.join(map(repr, self._runners))}>"

    @property
    def sources(self) -> Sequence[SourceRunner]:
        """What it runs."""
        return self._runners

    async def start(self) -> None:
        """Consume from every source.

        Raises:
            DestinationNotFound: a source does not exist.
            TransportError: one cannot be consumed, and waiting does not help.
        """
        results = await asyncio.gather(*(runner.start() for runner in self._runners), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def wait_idle(self, idle_s: float = 1.0) -> None:
        """Wait until nothing is in flight and nothing was received for so many seconds, at least from now on.

        So what was published before the call is not overlooked because the worker had long been idle. A message that
        the broker holds back for a later retry is not in flight: wait longer than your delays.

        Args:
            idle_s: how long nothing may happen, in seconds.
        """
        time = asyncio.get_running_loop().time
        called = time()
        while True:
            last = max((runner.last_active for runner in self._runners), default=called)
            busy = any(runner.in_flight for runner in self._runners)
            quiet_s = time() - max(last, called)
            if not busy and quiet_s >= idle_s:
                return
            await asyncio.sleep(max(0.005, min(0.05, idle_s) if busy else idle_s - quiet_s))

    async def pause(self, source: Source[Any]) -> None:
        """Stop handling a source, and let others handle it. Returns when what runs here has finished and is settled.

        Subscriptions keep collecting; health says ``paused``, which is ready.

        Raises:
            ConfigurationError: this worker does not run the source.

        If cancelled: the source stays paused.
        """
        await self._runner(source).pause()

    async def resume(self, source: Source[Any]) -> None:
        """Go on handling a paused source.

        Raises:
            ConfigurationError: this worker does not run the source.
        """
        await self._runner(source).resume()

    async def set_concurrency(self, source: Source[Any], concurrency: int) -> None:
        """Run so many handlers of a source at once from now on; those that run go on.

        Args:
            source: which.
            concurrency: 1 or more.

        Raises:
            ConfigurationError: this worker does not run the source, or the number is less than 1.
        """
        if concurrency < 1:
            raise ConfigurationError(f"concurrency must be 1 or more, not {concurrency}")
        self._runner(source).set_concurrency(concurrency)

    def _runner(self, source: Source[Any]) -> SourceRunner:
        for runner in self._runners:
            if runner.plan.source == source:
                return runner
        known = ", ".join(runner.address for runner in self._runners) or "nothing"
        raise ConfigurationError(f"this worker does not run {source}: it runs {known}")

    def health(self) -> Health:
        """How its sources are. Never raises."""
        states: dict[str, SourceState] = {runner.address: runner.state for runner in self._runners}
        problems = [problem for runner in self._runners for problem in runner.problems]
        return Health(all(state in READY for state in states.values()), states, problems)

    def statistics(self) -> dict[str, dict[str, int]]:
        """What each source did, by its text form."""
        return {runner.address: runner.counters.snapshot() for runner in self._runners}

    def reported(self, address: str, state: Literal["up", "down", "blocked"], cause: BaseException | None) -> None:
        """The transport says that the way to a source is there, or is not; ``blocked``: what is wrong all the same."""
        for runner in self._runners:
            if runner.address == address:
                if state == "blocked":
                    runner.told = str(cause)
                else:
                    runner.reported(state == "up", cause)

    @property
    def stuck_threads(self) -> int:
        """How many plain functions still run; after ``drain`` these cannot be stopped."""
        return sum(runner.stuck_threads for runner in self._runners)

    async def drain(self) -> bool:
        """Stop fetching, let handlers finish within the drain time-out, cancel the rest, close the receivers.

        Returns:
            Whether all finished by themselves.

        If cancelled: it goes on; call it again to wait for its end.
        """
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="busframe drain")
        return await asyncio.shield(self._draining)

    async def end(self) -> None:
        """Drain to the end. If cancelled: handlers are cancelled at once, and the end is waited for all the same."""
        cancelled: asyncio.CancelledError | None = None
        while self._draining is None or not self._draining.done():
            try:
                await self.drain()
            except asyncio.CancelledError as error:
                cancelled = error
                for runner in self._runners:
                    runner.hurry()
        if cancelled is not None:
            raise cancelled

    async def _drain(self) -> bool:
        logger.info("draining: %d in flight", sum(runner.in_flight for runner in self._runners))
        finished = await asyncio.gather(*map(self._drain_source, self._runners))
        return all(finished)

    async def _drain_source(self, runner: SourceRunner) -> bool:
        time = asyncio.get_running_loop().time
        until = time() + self._drain_timeout_s
        stopped = True
        try:
            await runner.stop()
        except Exception:
            stopped = False
            logger.exception("%s: stopping failed", runner.address)
        try:
            return await runner.finish(max(0.0, until - time())) and stopped
        except Exception:
            logger.exception("%s: ending failed", runner.address)
            return False
