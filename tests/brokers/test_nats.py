"""The NATS servers that the other tests rely on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from nats.aio.client import Client

from tests.brokers.nats import NATS


@asynccontextmanager
async def _connected(url: str, refused: list[str] | None = None) -> AsyncIterator[Client]:
    async def note(error: Exception) -> None:
        if refused is not None:
            refused.append(str(error))

    client = Client()
    await client.connect(url, allow_reconnect=False, error_cb=note)
    try:
        yield client
    finally:
        await client.close()


async def _publish(server: NATS, stream: str, body: bytes) -> None:
    async with _connected(server.url) as client:
        jetstream = client.jetstream(timeout=20)
        await jetstream.add_stream(name=stream, subjects=[stream])
        await jetstream.publish(stream, body)


async def _read(server: NATS, stream: str) -> bytes | None:
    async with _connected(server.url) as client:
        return (await client.jetstream(timeout=20).get_msg(stream, 1)).data


async def test_takes_and_gives_messages(nats: NATS) -> None:
    """A stream can be made, filled and read."""
    stream = f"emails-{uuid4().hex[:8]}"
    await _publish(nats, stream, b"hello")
    assert await _read(nats, stream) == b"hello"


async def test_users_are_limited(nats: NATS) -> None:
    """One user may use what is there and make nothing; another may do nothing at all."""
    makes, uses = "$JS.API.STREAM.CREATE.x", "$JS.API.CONSUMER.MSG.NEXT.x.y"
    for user, may_not in (("tester", set[str]()), ("user", {makes}), ("nobody", {makes, uses})):
        refused: list[str] = []
        async with _connected(nats.url_of(user), refused) as client:
            for subject in (makes, uses):
                await client.publish(subject)
            for _ in range(2):  # the client may send the first ping before what it has buffered
                await client.flush(20)
        assert {subject for subject in (makes, uses) if any(subject.lower() in error for error in refused)} == may_not


@pytest.mark.slow
class TestBreaking:
    """A server of one's own, of each version."""

    @pytest.fixture(params=["breakable_nats", "older_nats"])
    def server(self, request: pytest.FixtureRequest) -> NATS:
        """One of them."""
        server: NATS = request.getfixturevalue(request.param)
        return server

    async def test_confirmed_messages_survive_a_kill(self, server: NATS) -> None:
        """A killed server is gone at once, and comes back on the same address with what it had confirmed."""
        await _publish(server, "emails", b"hello")
        server.kill()
        assert not server.ready()
        server.start()
        assert await _read(server, "emails") == b"hello"
