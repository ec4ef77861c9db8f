"""What the tests of this plugin share: its transport, and what they do to its server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from busframe_kafka.client import Consumer, registry_config
from busframe_kafka.reader import read_to_end
from busframe_kafka.settings import Settings
from busframe_kafka.transport import Kafka
from tests.support.transports import Reports, eventually, make_host


def make_prefix() -> str:
    """A prefix that no other test has: Kafka has nothing like virtual hosts."""
    return f"test-{uuid4().hex[:10]}-"


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
