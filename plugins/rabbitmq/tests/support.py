"""What the tests of this plugin share: its transport, and what they do to its server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from busframe.errors import BusframeError
from busframe_rabbitmq.settings import Settings
from busframe_rabbitmq.transport import RabbitMQ
from tests.support.transports import Reports, make_host


def make_settings(url: str, **more: Any) -> Settings:
    """Settings that reconnect quickly."""
    return Settings(**{"url": url, "reconnect_min_s": 0.05, "reconnect_max_s": 0.5, **more})


@asynccontextmanager
async def opened(url: str, *, reports: Reports | None = None, prefix: str = "", **more: Any) -> AsyncIterator[RabbitMQ]:
    """An open transport."""
    transport = RabbitMQ(make_settings(url, **more), make_host(reports, prefix))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def queues_are_on_disk() -> None:
    """Wait until a killed server would find its new queues again.

    RabbitMQ 4.0.5 writes the names of new quorum queues to disk about every half second; of one that it does not find
    after a SIGKILL, the messages are gone and publishes are never confirmed. There is no way to ask.
    """
    await asyncio.sleep(2.0)


async def limit_length(rabbitmq: Any, vhost_url: str, queue: str, length: int) -> None:
    """Set a policy, as operators do; it takes the server a moment to follow it."""
    vhost = vhost_url.rpartition("/")[2]
    definition = {"max-length": length, "overflow": "reject-publish"}
    body = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "quorum_queues"}
    await asyncio.to_thread(rabbitmq.api, "PUT", f"/policies/{vhost}/{queue}", body)


def cut(transport: RabbitMQ, which: Literal["publishing", "consuming"]) -> None:
    """Cut a connection under the transport, as a broken network does."""
    connection = getattr(transport, which).connection
    assert connection is not None
    connection.raw._transport._transport.abort()


def errors_of(outcomes: Sequence[Exception | None]) -> list[BusframeError]:
    """The failed ones."""
    return [outcome for outcome in outcomes if isinstance(outcome, BusframeError)]
