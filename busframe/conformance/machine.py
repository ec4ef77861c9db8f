"""Any transport against a dict: a state machine that hypothesis drives.

What a broker keeps is a dict from message to where it is: available, delayed, held by a receiver, or dead. Every rule
does one thing to the transport and the same thing to the dict. At the end everything that should be there is taken
out, and nothing else may come.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from busframe.conformance.check import Violation
from busframe.conformance.harness import Harness, NotRunnable
from busframe.conformance.world import World
from busframe.errors import SettlementLost
from busframe.model.delivery import Delivery
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack, Settlement
from busframe.spi.transport import Receiver, Transport

R = TypeVar("R")

RECEIVERS = 3
DELAY_S = 0.2
PATIENCE_S = 10.0

# As the core would carry it: a letter without a record is no dead letter.
LETTER = DeadLetter("rejected", carried={"bf-dead-reason": "rejected", "bf-dead-attempts": "1", "bf-dead-source": "q"})


class TransportMachine(RuleBasedStateMachine):
    """Publishes, receives, settles in every way, closes, cuts; see the module."""

    harness: ClassVar[Harness]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.run(self.harness.start())
        self.world = World(self.harness, "machine")
        self.queue = self.world.queue()
        self.bodies: dict[str, bytes] = {}
        self.available: set[str] = set()
        self.due: dict[str, float] = {}
        self.held: list[dict[str, Delivery]] = [{} for _ in range(RECEIVERS)]
        self.lost: list[tuple[int, Delivery]] = []
        self.dead: set[str] = set()
        self.may_return: set[str] = set()
        """Acknowledged, and a cut may have eaten the acknowledgement on its way."""
        self.acknowledged: set[str] = set()
        self.receivers: list[Receiver | None] = [None] * RECEIVERS
        self.transport: Transport = self.run(self.world.open_client())
        self.run(self.world.declare(self.transport, self.queue))

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run one thing on the machine's own loop."""
        return self.loop.run_until_complete(work)

    # ------------------------------------------------------------------------------------------------ rules

    @rule(body=st.binary(max_size=40), count=st.integers(1, 5), delayed=st.booleans())
    def publish(self, body: bytes, count: int, delayed: bool) -> None:
        """Some messages, at once or a little later."""
        delay_s = DELAY_S if delayed and self.transport.capabilities.publish_delay_max_s >= DELAY_S else 0.0
        messages = [self.world.message(body) for _ in range(count)]
        self.run(self.world.publish(self.transport, self.queue, *messages, delay_s=delay_s))
        for message in messages:
            self.bodies[message.id] = body
            if delay_s:
                self.due[message.id] = time.monotonic() + delay_s
            else:
                self.available.add(message.id)

    @rule(which=st.integers(0, RECEIVERS - 1), limit=st.integers(1, 4))
    def receive(self, which: int, limit: int) -> None:
        """By one of the receivers, which is opened when it is used for the first time."""
        receiver = self.receivers[which]
        if receiver is None:
            receiver = self.receivers[which] = self.run(self.world.receiver(self.transport, self.queue, prefetch=4))
        deliveries = self.run(self._receive(receiver, limit))
        for delivery in deliveries:
            self._take(which, delivery)

    async def _receive(self, receiver: Receiver, limit: int) -> list[Delivery]:
        # Others may hold in their buffers what is available here, so that nothing need come.
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                return list(await receiver.receive(limit))
        return []

    def _take(self, which: int, delivery: Delivery) -> None:
        message = delivery.message
        if message.id not in self.bodies:
            raise Violation(f"{message.id} was received and never published")
        if message.body != self.bodies[message.id]:
            raise Violation(f"{message.body!r} was received as {message.id}, and {self.bodies[message.id]!r} was sent")
        if any(message.id in held for held in self.held):
            raise Violation(f"{message.id} is held already, and was handed out again")
        if message.id in self.due:
            early_s = self.due[message.id] - time.monotonic()
            if early_s > self.transport.capabilities.delay_resolution_s:
                raise Violation(f"{message.id} came {early_s:.2f} s before it was due")
            del self.due[message.id]
        elif message.id in self.available:
            self.available.discard(message.id)
        elif message.id not in self.may_return:
            raise Violation(f"{message.id} came again, though it was settled")
        self.held[which][message.id] = delivery

    @rule(
        which=st.integers(0, RECEIVERS - 1),
        how=st.sampled_from([ACK, ACK, ACK, RELEASE, Nack(0.0), Nack(DELAY_S), LETTER]),
        count=st.integers(1, 3),
    )
    def settle(self, which: int, how: Settlement, count: int) -> None:
        """What a receiver holds, alike and in one call."""
        receiver, held = self.receivers[which], self.held[which]
        chosen = list(held.values())[:count]
        if receiver is None or not chosen:
            return
        if isinstance(how, Nack) and how.delay_s > self.transport.capabilities.nack_delay_max_s:
            how = Nack(0.0)
        outcomes = self.run(receiver.settle([(delivery, how) for delivery in chosen]))
        for delivery, outcome in zip(chosen, outcomes, strict=True):
            if outcome is not None:
                raise Violation(f"{delivery.message.id} is held, and {how} ended as {outcome!r}")
            id = delivery.message.id
            del held[id]
            self.may_return.discard(id)
            if how == ACK:
                self.acknowledged.add(id)
            elif isinstance(how, DeadLetter):
                self.dead.add(id)
            elif isinstance(how, Nack) and how.delay_s:
                self.due[id] = time.monotonic() + how.delay_s
            else:
                self.available.add(id)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def settle_what_is_lost(self, data: st.DataObject) -> None:
        """An old receipt settles nothing: what it was for, and everything else, stays where it is."""
        which, delivery = data.draw(st.sampled_from(self.lost))
        receiver = self.receivers[which]
        if receiver is None or self.harness.late_acks:
            return
        (outcome,) = self.run(receiver.settle([(delivery, ACK)]))
        if not isinstance(outcome, SettlementLost):
            raise Violation(f"a receipt from before a cut ended as {outcome!r}, and not as SettlementLost")

    @rule(which=st.integers(0, RECEIVERS - 1))
    def close(self, which: int) -> None:
        """A receiver goes; what it held goes back."""
        receiver, self.receivers[which] = self.receivers[which], None
        if receiver is not None:
            self.run(receiver.close())
            self.available |= self.held[which].keys()
            self.held[which].clear()
            self.lost = [(of, delivery) for of, delivery in self.lost if of != which]

    @rule()
    def cut(self) -> None:
        """Every connection is cut; what was held goes back, and acknowledgements may be lost on their way."""
        try:
            self.run(self.harness.disconnect())
        except NotRunnable:
            return
        for which, held in enumerate(self.held):
            self.lost += [(which, delivery) for delivery in held.values()]
            self.available |= held.keys()
            held.clear()
        self.may_return |= self.acknowledged

    # ------------------------------------------------------------------------------------------------ the end

    def teardown(self) -> None:
        """Take out everything that should be there, and see that nothing else comes."""
        try:
            self.run(self._balance())
        finally:
            self.run(self.world.__aexit__(None, None, None))
            self.run(self.harness.stop())
            self.loop.close()

    async def _balance(self) -> None:
        for which in range(RECEIVERS):
            receiver = self.receivers[which]
            if receiver is not None:
                await receiver.close()
                self.available |= self.held[which].keys()
                self.held[which].clear()
        receiver = await self.world.receiver(self.transport, self.queue, prefetch=10)
        until = time.monotonic() + PATIENCE_S * self.harness.patience
        while self.available or self.due:
            if time.monotonic() > until:
                raise Violation(f"{len(self.available)} available and {len(self.due)} delayed messages never came")
            for delivery in await self._receive(receiver, 10):
                self._take(0, delivery)
                await receiver.settle([(delivery, ACK)])
                self.held[0].clear()
        for delivery in await self._receive(receiver, 10):
            self._take(0, delivery)  # only what a cut may have brought back
        letters = {message.id for message in await self.world.dead(self.transport, self.queue, len(self.dead))}
        if not letters >= self.dead - self.may_return:
            raise Violation(f"{len(self.dead - letters)} dead letters are missing")


def run_machine(harness: Harness, *, examples: int, steps: int = 25, shrink: bool = True) -> None:
    """Drive a transport through so many random histories.

    Args:
        harness: of the transport.
        examples: how many histories.
        steps: the most rules in one.
        shrink: look for the shortest history that fails, which takes long.

    Raises:
        Violation: the transport and the dict differ; hypothesis shows the shortest history that it found.
    """
    machine = type("Machine", (TransportMachine,), {"harness": harness})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,  # the same histories for every transport, and tomorrow
            report_multiple_bugs=False,
            phases=tuple(Phase) if shrink else (Phase.generate,),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
