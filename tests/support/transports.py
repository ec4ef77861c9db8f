"""A transport without a core around it: what the tests of all plugins share."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from busframe.conformance.proxy import Proxy
from busframe.logic.names import physical_name
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe.spi import ACK, Host, Receiver, Transport

DEADLINE_S = 30.0

Report = tuple[str, str, BaseException | None]
_numbers = itertools.count(1)


class Reports(list[Report]):
    """What a transport reported, and waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def add(self, subject: str, state: str, cause: BaseException | None) -> None:
        """Take a report."""
        self.append((subject, state, cause))
        self._news.set()

    async def wait(self, subject: str, state: str, *, since: int = 0) -> None:
        """Wait until this was reported, after the report of the number *since*."""
        async with asyncio.timeout(DEADLINE_S):
            while not any(report[:2] == (subject, state) for report in self[since:]):
                self._news.clear()
                await self._news.wait()


def make_host(reports: Reports | None = None, prefix: str = "") -> Host:
    """A host on the real clock."""
    return Host(
        clock=time.time,
        sleep=asyncio.sleep,
        random=random.random,
        application="tests",
        instance=f"instance-{next(_numbers)}",
        name=lambda address: physical_name(address, prefix),
        report=(reports if reports is not None else Reports()).add,
    )


def entities(*addresses: Address, **asked: Any) -> list[Entity]:
    """Addresses as the core passes them: each queue and subscription is followed by its dead letters."""
    found: list[Entity] = []
    for address in addresses:
        if isinstance(address, Subscription):
            found.append(Entity(address.topic))
        found.append(Entity(address, **({} if isinstance(address, Topic) else asked)))
        if isinstance(address, (Queue, Subscription)):
            found.append(Entity(address.dead_letters))
    return found


async def declare(transport: Transport, *addresses: Address, **asked: Any) -> None:
    """Plan and apply, as the core does in the mode ``create``."""
    await transport.apply(await transport.plan(entities(*addresses, **asked)))


def message(body: bytes = b"{}", **fields: Any) -> Message:
    """A message with a fresh id."""
    return Message(body, fields.pop("id", None) or uuid4().hex, **fields)


async def publish(transport: Transport, to: Address, *messages: Message, **more: Any) -> Sequence[Exception | None]:
    """Publish, and return the outcomes."""
    timeout_s = more.pop("timeout_s", DEADLINE_S)
    return await transport.publish([Outgoing(to, each, **more) for each in messages], timeout_s=timeout_s)


async def publish_all(transport: Transport, to: Address, *messages: Message, **more: Any) -> None:
    """Publish; each must be confirmed."""
    assert await publish(transport, to, *messages, **more) == [None] * len(messages)


@asynccontextmanager
async def consuming(
    transport: Transport,
    address: Queue[Any] | Subscription[Any] | DeadLetters,
    *,
    prefetch: int = 20,
    ack: Literal["after", "before"] = "after",
    **asked: Any,
) -> AsyncIterator[Receiver]:
    """An open receiver."""
    receiver = transport.receiver(Entity(address, **{"max_attempts": 5, **asked}), prefetch=prefetch, ack=ack)
    await receiver.open()
    try:
        yield receiver
    finally:
        await receiver.close()


async def receive(receiver: Receiver, count: int, *, deadline_s: float = DEADLINE_S) -> list[Delivery]:
    """Receive so many deliveries, no more, and leave them unsettled."""
    got: list[Delivery] = []
    async with asyncio.timeout(deadline_s):
        while len(got) < count:
            got += await receiver.receive(count - len(got))
    return got


async def take(receiver: Receiver, count: int, *, deadline_s: float = DEADLINE_S) -> list[Delivery]:
    """Receive and acknowledge so many."""
    got: list[Delivery] = []
    async with asyncio.timeout(deadline_s):
        while len(got) < count:
            batch = await receiver.receive(count - len(got))
            assert await receiver.settle([(delivery, ACK) for delivery in batch]) == [None] * len(batch)
            got += batch
    return got


async def nothing_arrives(receiver: Receiver, *, for_s: float = 0.3) -> None:
    """See that nothing is received for a while."""
    try:
        async with asyncio.timeout(for_s):
            got = await receiver.receive(10)
    except TimeoutError:
        return
    raise AssertionError(f"received {[delivery.message.id for delivery in got]}")


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until something that can only be asked for is true."""
    deadline = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a server, and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    await proxy.start()
    try:
        yield proxy, parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
    finally:
        await proxy.stop()


@asynccontextmanager
async def frozen(proxy: Proxy) -> AsyncIterator[None]:
    """Nothing passes, in either direction, within the block."""
    freezing = asyncio.create_task(proxy.freeze(3600))
    try:
        yield
    finally:
        freezing.cancel()
        with suppress(asyncio.CancelledError):
            await freezing


def kinds(outcomes: Sequence[Exception | None]) -> list[type | None]:
    """The classes of outcomes."""
    return [None if outcome is None else type(outcome) for outcome in outcomes]
