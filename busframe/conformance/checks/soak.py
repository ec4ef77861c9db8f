"""Tier S: what only shows when there is much of it, or when it goes on for long. Run only where it is asked for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.fanout import got_all
from busframe.conformance.consuming import consuming
from busframe.conformance.harness import NotRunnable
from busframe.conformance.traffic import DELAY_S, Traffic
from busframe.conformance.world import World, together
from busframe.model.delivery import Delivery
from busframe.model.destination import Subscription

if TYPE_CHECKING:
    from busframe.model.message import Message

CLIENTS = 5
SUBSCRIBERS, TOGETHER = 200, 10
"""How many subscribers join, and how many at a time."""
MEANWHILE = 25
"""How many messages are published while these join."""

PUBLISHERS, CONSUMERS, EACH = 50, 50, 5000
"""The last is how many messages a publisher has."""

CALM_S = 60.0
"""How long after a fault what was confirmed by then may take to be handled."""
FREEZE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Joined:
    """A subscriber: what it got, and how many messages it may have missed at least and at most."""

    subscription: Subscription[object]
    got: list[Delivery]
    least: int
    most: int


@check("D5", "subscribers that join while messages are published get all from then on, without a gap", tier="S")
async def joining(world: World) -> None:
    """200 of them during 500 messages, or as many as join in the time that the harness gives."""
    topic = world.topic()
    clients = [await world.open_client() for _ in range(CLIENTS)]
    await world.declare(clients[0], topic)
    sent: list[Message] = []
    joined: list[_Joined] = []

    async def publish() -> None:
        for _ in range(MEANWHILE):
            sent.append(world.message())
            await world.publish(clients[0], topic, sent[-1])
            await asyncio.sleep(0.002)

    async def join(number: int) -> None:
        client, subscription = clients[number % CLIENTS], topic.subscription(f"s{number}")
        least = len(world.history.confirmed)
        await world.declare(client, subscription)
        most = len(sent)
        receiver = await world.receiver(client, subscription, prefetch=50)
        got = await stack.enter_async_context(consuming(world, receiver, limit=50))
        joined.append(_Joined(subscription, got, least, most))

    until = time.monotonic() + world.harness.soak_s
    async with AsyncExitStack() as stack:
        while len(joined) < SUBSCRIBERS and (not joined or time.monotonic() < until):
            first = len(joined)
            await together(publish(), *(join(first + number) for number in range(TOGETHER)))
        await publish()  # to join may take longer than what was published meanwhile
        last = sent[-1].id
        await world.until(
            lambda: all(last in (delivery.message.id for delivery in reversed(each.got)) for each in joined),
            f"the last of {len(sent)} messages at each of {len(joined)} subscribers",
            within_s=60,
        )
        await world.quiet(lambda: sum(len(each.got) for each in joined), quiet_s=1.0)
    for each in joined:
        missed = len(sent) - len(each.got)
        if not each.least <= missed <= each.most:
            raise Violation(f"{each.subscription} missed {missed} messages, not {each.least} to {each.most}")
        got_all(each.subscription, sent[missed:], [delivery.message.id for delivery in each.got])


@check("K4", "of many publishers and consumers on shared clients nothing is lost or handled twice", tier="S")
async def crowd(world: World) -> None:
    """50 and 50 on five clients, and 5000 messages of each publisher, or what it has in the harness's time."""
    queue = world.queue()
    clients = [await world.open_client() for _ in range(CLIENTS)]
    await world.declare(clients[0], queue)
    history = world.history
    until = time.monotonic() + world.harness.soak_s

    async def publish(number: int) -> None:
        for _ in range(EACH):
            if time.monotonic() > until:
                return
            await world.publish(clients[number % CLIENTS], queue, world.message())

    async with AsyncExitStack() as stack:
        joining = [world.receiver(clients[number % CLIENTS], queue) for number in range(CONSUMERS)]
        for receiver in await asyncio.gather(*joining):
            await stack.enter_async_context(consuming(world, receiver, limit=10))
        await together(*map(publish, range(PUBLISHERS)))
        await world.until(
            lambda: len(history.handled) >= len(history.confirmed),
            f"all {len(history.confirmed)} messages",
            within_s=60,
        )
        await world.quiet(lambda: len(history.handled))
    world.balanced()


@check(
    "M9", "through random faults with calm between them nothing is lost, and everything recovers by itself", tier="S"
)
async def soak(world: World) -> None:
    """Two workers and ten publishers, for the harness's time; the harness's seed says which faults there are."""
    claims = await world.capabilities()
    traffic = Traffic(world, ordered=claims.ordering != "none", delays=claims.publish_delay_max_s >= DELAY_S)
    trouble = _Trouble(world, partial(traffic.bus, ordered=claims.ordering == "fleet"))
    try:
        async with traffic.bus() as bus, bus.worker(), trouble:
            traffic.start(bus)
            try:
                until = time.monotonic() + world.harness.soak_s
                while not trouble.rounds or time.monotonic() < until:
                    await trouble.one_round()
                    await traffic.caught_up(CALM_S)
                await traffic.stop()
            finally:
                await traffic.abandon()
            await traffic.caught_up(CALM_S)
            await world.until(lambda: bus.health().ready, "the worker that was there all the time to be ready")
            await world.quiet(lambda: traffic.ended)
            await traffic.account(bus)
            with world.part("whether the broker has nothing left"):
                for load in traffic.loads:
                    await world.emptied(load.source)
    except Exception as error:
        error.add_note(f"seed {world.harness.seed}; {traffic}; the faults were\n{trouble}")
        raise


class _Trouble:
    """A worker that comes and goes, and the harness's faults.

    Attributes:
        rounds: what happened, in words.
    """

    def __init__(self, world: World, bus: Callable[[], Bus]) -> None:
        self.rounds: list[str] = []
        self._random = Random(world.harness.seed)
        self._bus = bus
        self._worker = AsyncExitStack()
        self._server = asyncio.Lock()
        self._began = time.monotonic()
        self._freeze_s = 0.0
        harness = world.harness
        self._faults: dict[str, Callable[[], Awaitable[None]]] = {
            "cut": harness.disconnect,
            "freeze": lambda: harness.freeze(self._freeze_s),
            "restart": lambda: self._alone(harness.restart),
            "kill": lambda: self._alone(harness.kill),
        }

    def __str__(self) -> str:
        return "\n".join(self.rounds)

    async def __aenter__(self) -> None:
        await self._start_worker()

    async def __aexit__(self, *exc: object) -> None:
        await self._worker.aclose()

    async def one_round(self) -> None:
        """Some of the faults, at first all, each at its time within a second; what the harness has not is forgotten.

        Raises:
            NotRunnable: it has none.
        """
        faults = {**self._faults, "worker": self._change_worker}
        least = 1 if self.rounds else len(faults)
        chosen = self._random.sample(sorted(faults), self._random.randint(least, len(faults)))
        times = {name: self._random.uniform(0, 1) for name in chosen}
        self._freeze_s = self._random.uniform(0.1, FREEZE_S)
        calm_s = self._random.uniform(0, 1)
        said = ", ".join(f"{name} +{times[name]:.1f}" for name in sorted(chosen, key=times.__getitem__))
        self.rounds.append(f"{time.monotonic() - self._began:7.1f} s: {said}")
        await asyncio.sleep(calm_s)
        await together(*(self._one(name, faults[name], times[name]) for name in chosen))
        if not self._faults:
            raise NotRunnable("this harness has no fault")

    async def _one(self, name: str, fault: Callable[[], Awaitable[None]], after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            await fault()
        except NotRunnable:
            del self._faults[name]

    async def _alone(self, fault: Callable[[], Awaitable[None]]) -> None:
        async with self._server:
            await fault()

    async def _start_worker(self) -> None:
        bus = self._bus()
        await self._worker.enter_async_context(bus)
        await self._worker.enter_async_context(bus.worker())

    async def _change_worker(self) -> None:
        await self._worker.aclose()
        await self._start_worker()
