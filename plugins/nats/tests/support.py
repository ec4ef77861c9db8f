"""What the tests of this plugin share: its transport, and what they do to its server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from busframe_nats.settings import Settings
from busframe_nats.transport import Nats
from tests.support.transports import Reports, make_host


def make_settings(url: str, **more: Any) -> Settings:
    """Settings that reconnect quickly; the URL may have a query."""
    base, _, query = url.partition("?")
    return Settings(**{"url": base, "reconnect_min_s": 0.02, "reconnect_max_s": 0.2, **dict(parse_qsl(query)), **more})


@asynccontextmanager
async def opened(url: str, *, reports: Reports | None = None, **more: Any) -> AsyncIterator[Nats]:
    """An open transport."""
    transport = Nats(make_settings(url, **more), make_host(reports))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def consumer(transport: Nats, stream: str, name: str) -> dict[str, Any]:
    """What the server says of a consumer that is there."""
    found = await transport.jetstream.consumer(stream, name)
    assert found is not None
    return found


def cut(transport: Nats) -> None:
    """Cut the connection under the transport, as a broken network does."""
    connection = transport.link.connection
    assert connection is not None
    connection._socket.abort()
