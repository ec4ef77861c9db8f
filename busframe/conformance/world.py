"""What a check has at hand: clients of its own, and a history of what it did with them."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from busframe.bus import Bus
from busframe.bus.dead_letters import DeadLetterRecord
from busframe.conformance.check import Violation
from busframe.conformance.clients import PREFIX as PREFIX
from busframe.conformance.clients import Clients
from busframe.conformance.harness import BrokerState, Harness, NotRunnable
from busframe.conformance.history import History
from busframe.errors import PublishError, PublishOutcomeUnknown
from busframe.handling.context import Context
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, DeadLetters, Destination, Queue, Subscription
from busframe.model.events import Failed, Handled
from busframe.model.message import Message
from busframe.model.settlement import ACK, DeadLetter, Settlement
from busframe.spi.transport import Receiver, Transport

QUIET_S = 0.25
"""How long to go on reading after the expected number, so that extras are seen."""
POLL_S = 0.01
"""How long after a look at a condition the next one is taken."""


class World(Clients):
    """One check's surroundings. Everything it opens is closed at the end.

    Attributes:
        history: what the check did.
        left_out: the parts of the check that could not run here, each with its reason.
    """

    def __init__(self, harness: Harness, check: str) -> None:
        super().__init__(harness, check)
        self.history = History()
        self.left_out: list[str] = []
        self._watched: list[Receiver] = []

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """A part of a check that needs what not every harness can do: there it is left out, and the report says so."""
        try:
            yield
        except NotRunnable as reason:
            if (said := f"{what}: {reason}") not in self.left_out:
                self.left_out.append(said)

    # ------------------------------------------------------------------------------------------------ messages

    def message(self, body: bytes = b'{"n": 1}', **fields: Any) -> Message:
        """A message as the core makes one."""
        fields.setdefault("id", uuid4().hex)
        fields.setdefault("content_type", "application/json")
        fields.setdefault("published_at", datetime.now(UTC))
        return Message(body, **fields)

    async def try_publish(
        self, transport: Transport, to: Address, *messages: Message, timeout_s: float = 10.0, **outgoing: Any
    ) -> Sequence[Exception | None]:
        """Publish through the driver interface, and write down how each ended."""
        history = self.history
        for message in messages:
            history.tried.append(message.id)
            if message.key is not None:
                history.keys[message.id] = message.key
        outcomes = await transport.publish(
            [Outgoing(to, message, **outgoing) for message in messages], timeout_s=timeout_s
        )
        for message, outcome in zip(messages, outcomes, strict=True):
            kind = (
                history.confirmed
                if outcome is None
                else history.unknown
                if isinstance(outcome, PublishOutcomeUnknown)
                else history.failed
            )
            kind.append(message.id)
        return outcomes

    async def publish(self, transport: Transport, to: Address, *messages: Message, **outgoing: Any) -> None:
        """Publish, and demand that each is confirmed."""
        for message, outcome in zip(
            messages, await self.try_publish(transport, to, *messages, **outgoing), strict=True
        ):
            if outcome is not None:
                raise Violation(f"message {message.id} was not confirmed: {outcome!r}")

    async def send(self, bus: Bus, to: Destination[Any], *bodies: object, **options: Any) -> list[Message]:
        """Publish through a bus, one after the other, and write down that each was confirmed."""
        sent = []
        for body in bodies:
            message = await bus.publish(to, body, **options)
            self.history.tried.append(message.id)
            self.history.confirmed.append(message.id)
            if message.key is not None:
                self.history.keys[message.id] = message.key
            sent.append(message)
        return sent

    def handled(self, ctx: Context, by: str = "") -> None:
        """Write down, in a handler, that it has handled its message."""
        self.history.done(ctx.message.id, by or ctx.handler)

    async def take(
        self, receiver: Receiver, count: int, *, within_s: float = 10.0, consumer: str = ""
    ) -> list[Delivery]:
        """Receive exactly so many deliveries, unsettled."""
        taken: list[Delivery] = []
        within_s *= self.harness.patience
        try:
            async with asyncio.timeout(within_s):
                while len(taken) < count:
                    taken += await receiver.receive(count - len(taken))
        except TimeoutError:
            raise Violation(f"{len(taken)} of {count} messages came within {within_s:g} s") from None
        for delivery in taken:
            self.history.taken(delivery.message.id, consumer or str(id(receiver)))
        return taken

    async def settle(self, receiver: Receiver, deliveries: Sequence[Delivery], settlement: Settlement = ACK) -> None:
        """Settle deliveries alike, and demand that the broker has it."""
        for delivery in deliveries:  # before: another consumer may have it before the broker's answer is here
            self.history.let_go(delivery.message.id, str(id(receiver)))
        outcomes = await receiver.settle([(delivery, settlement) for delivery in deliveries])
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if outcome is not None:
                raise Violation(f"message {delivery.message.id} was not settled: {outcome!r}")
            if settlement == ACK:
                self.history.done(delivery.message.id, str(id(receiver)))

    async def drain(self, receiver: Receiver, count: int, *, within_s: float = 10.0) -> list[Delivery]:
        """Receive and acknowledge so many, with no longer pause than that; from then on watch that no more come."""
        deliveries: list[Delivery] = []
        within_s *= self.harness.patience
        while len(deliveries) < count:
            try:
                async with asyncio.timeout(within_s):
                    some = await receiver.receive(count - len(deliveries))
            except TimeoutError:
                raise Violation(f"{len(deliveries)} of {count} messages came, and none for {within_s:g} s") from None
            for delivery in some:
                self.history.taken(delivery.message.id, str(id(receiver)))
            await self.settle(receiver, some)
            deliveries += some
        self.watch(receiver)
        return deliveries

    def watch(self, *receivers: Receiver) -> None:
        """Demand that nothing more comes to receivers than the check takes, until it ends and a quiet period is over.

        One period for all of them; whoever closes one before the end asks for ``nothing`` first.
        """
        self._watched += [receiver for receiver in receivers if receiver not in self._watched]

    async def watched(self) -> None:
        """The quiet period at the end of a check."""
        if self._watched:
            await self.nothing(*self._watched)

    async def nothing(self, *receivers: Receiver, quiet_s: float = QUIET_S) -> None:
        """Demand that nothing comes to receivers for a quiet period; who was watched is no longer."""
        self._watched = [receiver for receiver in self._watched if receiver not in receivers]
        receiving = [asyncio.ensure_future(receiver.receive(1)) for receiver in receivers]
        await asyncio.wait(receiving, timeout=quiet_s, return_when=asyncio.FIRST_COMPLETED)
        for each in receiving:
            each.cancel()
        for end in await asyncio.gather(*receiving, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
            if not isinstance(end, BaseException):
                raise Violation(f"unexpected message {end[0].message.id}: {end[0].message.body[:60]!r}")

    async def rest(self, receiver: Receiver, *, quiet_s: float = QUIET_S) -> list[Delivery]:
        """Receive and acknowledge whatever comes, until nothing comes for a quiet period."""
        deliveries: list[Delivery] = []
        while True:
            try:
                async with asyncio.timeout(quiet_s):
                    some = await receiver.receive(10)
            except TimeoutError:
                return deliveries
            await self.settle(receiver, some)
            deliveries += some

    async def close(self, receiver: Receiver) -> None:
        """End a receiver with all that it holds."""
        self.history.gone(str(id(receiver)))
        await receiver.close()

    # ------------------------------------------------------------------------------------------------ native

    async def native_publish(self, to: Address, body: bytes, headers: Mapping[str, object] | None = None) -> None:
        """Publish as a foreign program does."""
        await self.harness.native_publish(to, self.name(to), body, headers or {})

    async def native_read(self, source: Address) -> tuple[bytes, Mapping[str, str]]:
        """Take one message as a foreign program does."""
        return await self.harness.native_read(source, self.name(source))

    async def broker_state(self, source: Address) -> BrokerState:
        """What the broker says of a source."""
        return await self.harness.broker_state(source, self.name(source))

    async def emptied(self, source: Address) -> None:
        """Wait until the broker has nothing left of a source.

        Raises:
            NotRunnable: it does not say what it has.
            Violation: it still has something.
        """

        async def empty() -> bool:
            state = await self.broker_state(source)
            return not state.ready and not state.unsettled

        await self.until(empty, f"all messages of {source} are handled, and some are still on the broker")

    async def dead(
        self, transport: Transport, source: Queue[Any] | Subscription[Any], count: int, *, within_s: float = 15.0
    ) -> list[Message]:
        """The dead letters of a source, when there are so many; and no more."""
        letters = DeadLetters(source)
        found: list[Message] = []

        async def enough() -> bool:
            found[:] = [stored.message for stored in await transport.browse(letters)]
            return len(found) >= count

        await self.until(enough, f"{count} dead letters of {source}", within_s=within_s)
        if len(found) > count:
            raise Violation(f"{len(found)} dead letters of {source}, not {count}")
        return found

    async def letters(self, bus: Bus, source: Queue[Any] | Subscription[Any], count: int) -> list[DeadLetterRecord]:
        """The same through an open bus."""
        found: list[DeadLetterRecord] = []

        async def enough() -> bool:
            found[:] = [record async for record in bus.dead_letters(source).list(limit=count + 10)]
            return len(found) >= count

        await self.until(enough, f"{count} dead letters of {source}")
        if len(found) > count:
            raise Violation(f"{len(found)} dead letters of {source}, not {count}")
        return found

    # ------------------------------------------------------------------------------------------------ waiting

    async def until(self, true: Callable[[], Any], what: str, *, within_s: float = 15.0) -> None:
        """Wait for a condition (plain or async), and say what it was when it does not come."""
        within_s *= self.harness.patience
        until = time.monotonic() + within_s
        while True:
            value = true()
            if await value if asyncio.iscoroutine(value) else value:
                return
            if time.monotonic() > until:
                raise Violation(f"not within {within_s:g} s: {what}\n{self.account()}")
            await asyncio.sleep(POLL_S)

    async def stays(self, true: Callable[[], bool], what: str, *, quiet_s: float = QUIET_S) -> None:
        """Demand that a condition holds for a quiet period."""
        until = time.monotonic() + quiet_s
        while true():
            if time.monotonic() > until:
                return
            await asyncio.sleep(POLL_S)
        raise Violation(f"it did not stay so: {what}")

    async def quiet(self, count: Callable[[], int], *, quiet_s: float = QUIET_S) -> None:
        """Wait until a count of what happens stays as it is for a quiet period, so that extras are seen."""
        before, since = count(), time.monotonic()
        while time.monotonic() < since + quiet_s:
            await asyncio.sleep(POLL_S)
            if (now := count()) != before:
                before, since = now, time.monotonic()

    def balanced(self, **allowed: Any) -> None:
        """Demand that the history adds up."""
        problems = self.history.account(**allowed)
        if problems:
            raise Violation("; ".join(problems))

    def account(self) -> str:
        """What the history says, for a failure's text."""
        return "; ".join(self.history.account()) or "the history adds up so far"


def ended(events: Sequence[object]) -> list[Handled | Failed]:
    """Those of a bus's events (``observers=[events.append]``) that end a message: handled, or given up."""
    return [
        event
        for event in events
        if isinstance(event, Handled) or (isinstance(event, Failed) and isinstance(event.settlement, DeadLetter))
    ]


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run parts of a check at the same time; if one fails, the others are ended."""
    running = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*running)
    finally:
        for each in running:
            each.cancel()
        await asyncio.wait(running)


def failed_as(outcome: Exception | None, kind: type[PublishError] | type[Exception]) -> None:
    """Demand that an outcome is of a class."""
    if not isinstance(outcome, kind):
        raise Violation(f"{kind.__name__} was expected, not {outcome!r}")
