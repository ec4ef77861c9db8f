"""Connections that are lost, slow or refused, on a real server: it is noticed, told, and over when its cause is."""

import asyncio
import select
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from busframe.errors import AccessDenied, Backpressure, ConnectionFailed, PublishOutcomeUnknown
from busframe.model.destination import Queue
from busframe.spi import ACK
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import opened
from tests.support.transports import (
    Reports,
    consuming,
    declare,
    eventually,
    frozen,
    kinds,
    message,
    proxied,
    publish,
    publish_all,
    receive,
    take,
)

EMAILS = Queue[Any]("emails")


def causes(reports: Reports) -> str:
    """All that was said about why the connection was down."""
    return " | ".join(str(cause) for subject, state, cause in reports if (subject, state) == ("connection", "down"))


@pytest.mark.slow
async def test_a_black_hole_is_noticed_after_two_heartbeats(rabbitmq_vhost: str) -> None:
    """No packet says that it is there; both connections are made anew, and nothing confirmed is lost."""
    reports = Reports()
    async with proxied(rabbitmq_vhost) as (proxy, url):
        async with opened(url, reports=reports, heartbeat_s=1, connect_timeout_s=1.0) as transport:
            await declare(transport, EMAILS)
            async with consuming(transport, EMAILS) as receiver:
                await publish_all(transport, EMAILS, message(id="before"))
                await take(receiver, 1)
                async with frozen(proxy):
                    (outcome,) = await publish(transport, EMAILS, message(id="meanwhile"))
                    await reports.wait(str(EMAILS), "down")
                await reports.wait(str(EMAILS), "up")
                await publish_all(transport, EMAILS, message(id="after"))
                got = {delivery.message.id for delivery in await take(receiver, 1)}
                while "after" not in got:
                    got |= {delivery.message.id for delivery in await take(receiver, 1)}
    assert isinstance(outcome, PublishOutcomeUnknown)
    assert isinstance(outcome.__cause__, ConnectionFailed)
    assert got <= {"meanwhile", "after"}
    assert "nothing was received for 2 s" in causes(reports)


def blocks_until_the_server_gives_up(transport: RabbitMQ) -> None:
    """Do not come back to the event loop until the server has ended both connections."""
    poll = select.poll()
    waiting = set()
    for link in (transport.publishing, transport.consuming):
        assert link.connection is not None
        number = link.connection.raw._transport._transport.get_extra_info("socket").fileno()
        poll.register(number, select.POLLRDHUP)
        waiting.add(number)
    deadline = time.monotonic() + 30
    while waiting:
        assert time.monotonic() < deadline, "the server keeps silent connections"
        for number, _ in poll.poll(100):
            poll.unregister(number)
            waiting.discard(number)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="whether a server has gone is not told here")
async def test_a_blocked_loop_is_told_and_gets_over_it(rabbitmq_vhost: str) -> None:
    """The server resets connections without heartbeats; nothing confirmed is lost, and what was received comes back."""
    reports = Reports()
    async with opened(rabbitmq_vhost, reports=reports, heartbeat_s=1, publish_window=10) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS) as receiver:
            await publish_all(transport, EMAILS, message(id="held"))
            held = await receive(receiver, 1)
            many = [message(id=f"m{number}") for number in range(200)]
            publishing = asyncio.create_task(publish(transport, EMAILS, *many))
            await asyncio.sleep(0)
            blocks_until_the_server_gives_up(transport)
            outcomes = await publishing
            await reports.wait(str(EMAILS), "up")
            await publish_all(transport, EMAILS, message(id="after"))
            assert kinds(await receiver.settle([(held[0], ACK)])) != [None]
            confirmed = {each.id for each, outcome in zip(many, outcomes, strict=True) if outcome is None}
            assert set(kinds(outcomes)) <= {None, PublishOutcomeUnknown}
            missing = confirmed | {"held", "after"}
            while missing:
                missing -= {delivery.message.id for delivery in await take(receiver, 1)}
    assert "event loop had been blocked for" in causes(reports)


async def test_credentials_that_are_taken_away(
    rabbitmq: Any, rabbitmq_vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, publishing fails with it as the cause, and it works again as soon as they are back."""
    vhost = urlsplit(rabbitmq_vhost).path[1:]
    user = f"u{vhost}"
    reports = Reports()

    def allow(password: str) -> None:
        rabbitmq.api("PUT", f"/users/{user}", {"password": password, "tags": ""})

    allow("one")
    rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    try:
        async with proxied(rabbitmq_vhost.replace("guest:guest", f"{user}:one")) as (proxy, url):
            async with opened(url, reports=reports) as transport:
                await declare(transport, EMAILS)
                allow("other")
                await proxy.cut()

                async def refused() -> bool:
                    return isinstance(transport.publishing.error, AccessDenied)

                await eventually(refused, "the credentials to be refused")
                (outcome,) = await publish(transport, EMAILS, message(), timeout_s=0.2)
                assert isinstance(outcome, Exception)
                assert isinstance(outcome.__cause__, AccessDenied)
                allow("one")
                await publish_all(transport, EMAILS, message())
    finally:
        rabbitmq.api("DELETE", f"/users/{user}")
    warned = [text for record in caplog.records if "cannot connect" in (text := record.getMessage())]
    assert len([text for text in warned if text.startswith("publish: ")]) == 1
    assert "ACCESS_REFUSED" in warned[0]


# ---------------------------------------------------------------------------------------------- slow servers

BODY = b"x" * 20_000
WINDOW_BYTES = 510_000
OVERHEAD_BYTES = 300
"""Of one message's frames and properties; the window counts the properties."""


class Written:
    """How many bytes a transport wrote to its publishing connection, whether or not the network takes them."""

    def __init__(self, transport: RabbitMQ) -> None:
        self.count = 0
        connection = transport.publishing.connection
        assert connection is not None
        self._stream = connection.raw._transport
        self._write = self._stream.write
        self._stream.write = self._count  # pika's every write goes through it

    def _count(self, data: bytes) -> None:
        self.count += len(data)
        self._write(data)


@pytest.mark.parametrize("callers", [1, 200])
async def test_a_slow_server_does_not_fill_the_memory(rabbitmq_vhost: str, callers: int) -> None:
    """One call with many messages, or many calls: what is not sent waits as the caller's, and time ends that."""
    async with proxied(rabbitmq_vhost) as (proxy, url):
        async with opened(url, publish_window=40, publish_window_bytes=WINDOW_BYTES) as transport:
            await declare(transport, EMAILS)
            await publish_all(transport, EMAILS, message())
            written = Written(transport)

            def publish_much(**more: Any) -> "asyncio.Future[Any]":
                each = [[message(BODY) for _ in range(1000 // callers)] for _ in range(callers)]
                return asyncio.gather(*(publish(transport, EMAILS, *messages, **more) for messages in each))

            async with frozen(proxy):
                outcomes = [outcome for each in await publish_much(timeout_s=0.5) for outcome in each]
                sent = kinds(outcomes).count(PublishOutcomeUnknown)
                assert kinds(outcomes).count(Backpressure) == 1000 - sent
                waiting = publish_much()
                await asyncio.sleep(0)
                assert sent == WINDOW_BYTES // len(BODY)
                assert sent * len(BODY) < written.count < WINDOW_BYTES + sent * OVERHEAD_BYTES
            assert {outcome for each in await waiting for outcome in each} == {None}
