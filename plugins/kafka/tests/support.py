"""What the tests of this plugin share: a host, messages, and waiting for what must happen."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from busframe.logic.names import physical_name
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address, Queue, Subscription, Topic
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe.spi import Host
from busframe_kafka.client import Consumer, registry_config
from busframe_kafka.reader import read_to_end
from busframe_kafka.settings import Settings
from busframe_kafka.transport import Kafka

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


def make_prefix() -> str:
    """A prefix that no other test has: Kafka has nothing like virtual hosts."""
    return f"test-{uuid4().hex[:10]}-"


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


def make_settings(url: str, **more: Any) -> Settings:
    """Settings with few partitions, that reconnect quickly."""
    return Settings(**{"url": url, "reconnect_min_s": 0.05, "reconnect_max_s": 0.5, "partitions": 3, **more})


@asynccontextmanager
async def opened(
    url: str, *, reports: Reports | None = None, prefix: str | None = None, **more: Any
) -> AsyncIterator[Kafka]:
    """An open transport, with a prefix of its own unless one is given."""
    host = make_host(reports, make_prefix() if prefix is None else prefix)
    transport = Kafka(make_settings(url, **more), host)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


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


async def declare(transport: Kafka, *addresses: Address, **asked: Any) -> None:
    """Plan and apply, as the core does in the mode ``create``."""
    await transport.apply(await transport.plan(entities(*addresses, **asked)))


def message(body: bytes = b"{}", **fields: Any) -> Message:
    """A message with a fresh id."""
    return Message(body, fields.pop("id", None) or uuid4().hex, **fields)


async def publish(transport: Kafka, to: Address, *messages: Message, **more: Any) -> Sequence[Exception | None]:
    """Publish, and return the outcomes."""
    timeout_s = more.pop("timeout_s", DEADLINE_S)
    return await transport.publish([Outgoing(to, each, **more) for each in messages], timeout_s=timeout_s)


async def publish_all(transport: Kafka, to: Address, *messages: Message, **more: Any) -> None:
    """Publish; each must be confirmed."""
    assert await publish(transport, to, *messages, **more) == [None] * len(messages)


async def stored(transport: Kafka, topic: str) -> list[Any]:
    """All records of a topic, as the client library reads them."""
    places = await transport.admin.partitions_of(topic)
    settings, client_id = transport.settings, transport.client_id

    def read() -> list[Any]:
        messages, _ = read_to_end(lambda: Consumer(registry_config(settings, client_id)), dict.fromkeys(places))
        return messages

    return await asyncio.to_thread(read)


async def delete_topic(transport: Kafka, topic: str) -> None:
    """Delete a topic, and wait until the servers do not know it any more."""
    deleting = transport.admin.client.delete_topics([topic])[topic]
    await asyncio.wrap_future(deleting)

    async def is_gone() -> bool:
        return topic not in await transport.admin.topics([topic])

    await eventually(is_gone, f"{topic} is gone")


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until something that can only be asked for is true."""
    deadline = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.02)


def kinds(outcomes: Sequence[Exception | None]) -> list[type | None]:
    """The classes of outcomes."""
    return [None if outcome is None else type(outcome) for outcome in outcomes]
