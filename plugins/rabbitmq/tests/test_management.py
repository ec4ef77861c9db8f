"""busframe_rabbitmq.management, and what the transport knows through it; on a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from busframe.errors import AccessDenied, ConnectionFailed, TopologyMismatch, TransportError
from busframe.model.destination import Queue, Topic
from busframe_rabbitmq.channel import open_channel
from busframe_rabbitmq.management import Management
from plugins.rabbitmq.tests.support import make_settings, opened
from tests.support.transports import consuming, declare, entities, eventually, message, publish_all, receive

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
STOCK = ORDERS.subscription("stock", where={"kind": ["a", "b"]})


@pytest.fixture
def watcher(rabbitmq: Any, rabbitmq_vhost: str) -> Iterator[str]:
    """The server's management URL, with a user that may look and no more."""
    vhost = urlsplit(rabbitmq_vhost).path[1:]
    user = f"u{vhost}"
    rabbitmq.api("PUT", f"/users/{user}", {"password": "p@ss", "tags": "monitoring"})
    rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", {"configure": "", "write": "", "read": ""})
    yield rabbitmq.management_url.replace("://", f"://{user}:p%40ss@")
    rabbitmq.api("DELETE", f"/users/{user}")


@pytest.mark.slow
async def test_unsettled_messages_are_counted(rabbitmq_vhost: str, watcher: str) -> None:
    """Some seconds later, as the server counts them."""
    async with opened(rabbitmq_vhost, management_url=watcher) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(5)))
        async with consuming(transport, EMAILS, prefetch=3) as receiver:
            await receive(receiver, 3)

            async def counted() -> bool:
                stats = await transport.stats(EMAILS)
                return (stats.depth, stats.in_flight) == (2, 3)

            await eventually(counted, "three unsettled messages")


async def test_bindings_are_compared(rabbitmq_vhost: str, watcher: str) -> None:
    """Missing ones are made; those of an older filter are told, and no difference that would never end."""
    older = ORDERS.subscription("stock", where={"kind": "old"})
    async with opened(rabbitmq_vhost, management_url=watcher) as transport:
        await declare(transport, older)
        assert list(await transport.plan(entities(older))) == []
        changes = await transport.plan(entities(STOCK))
        assert [(change.action, change.property) for change in changes] == [("update", "bindings")]
        await transport.apply(changes)
        (left,) = await transport.plan(entities(STOCK))
        assert (left.action, left.property) == ("unknown", "bindings")
        assert {"x-match": "all-with-x", "kind": "old"} in list(left.found)  # type: ignore[call-overload]
        assert "properties_key=" in left.command


async def test_policies_are_seen(rabbitmq: Any, rabbitmq_vhost: str, watcher: str) -> None:
    """Before a queue is made as well; what would lose messages is refused, and by whom it was said."""
    vhost = urlsplit(rabbitmq_vhost).path[1:]
    limit = {"pattern": "^emails$", "definition": {"delivery-limit": 5, "max-length": 7}, "apply-to": "queues"}
    rabbitmq.api("PUT", f"/policies/{vhost}/limits", limit)
    rabbitmq.api("PUT", f"/policies/{vhost}/old", {"pattern": "^bf--", "definition": {"message-ttl": 9}})
    asked = entities(EMAILS, max_attempts=3, longest_delay_s=5)
    async with opened(rabbitmq_vhost, management_url=watcher) as transport:
        for _ in range(2):
            changes = [
                change for change in await transport.plan(asked) if change.property and "policy" in change.property
            ]
            assert [(change.action, change.property, change.found) for change in changes] == [
                ("conflict", "delivery-limit (policy 'limits')", 5),
                ("unknown", "max-length (policy 'limits')", 7),
                ("conflict", "message-ttl (policy 'old' for delay queues)", 9),
            ]
            async with opened(rabbitmq_vhost) as other:
                await declare(other, EMAILS)
        with pytest.raises(TopologyMismatch, match="change or remove the policy 'limits'"):
            await transport.apply(await transport.plan(asked))
        rabbitmq.api("DELETE", f"/policies/{vhost}/old")
        limit["definition"] = {"max-length": 7}
        rabbitmq.api("PUT", f"/policies/{vhost}/limits", limit)
        await transport.apply(await transport.plan(asked))


async def test_a_server_is_diagnosed(rabbitmq: Any, rabbitmq_vhost: str, watcher: str) -> None:
    """With the management plugin more is known."""
    for url, nodes in ((watcher, "one node"), (None, "not known")):
        async with opened(rabbitmq_vhost, management_url=url) as transport:
            found = {finding.subject: finding for finding in await transport.diagnose()}
            assert nodes in found["nodes"].says
            assert found["alarms"].level == "ok"
            assert found["credentials"].level == "warn"
            assert found["server"].says.startswith("RabbitMQ 4.")


async def test_nothing_depends_on_it(rabbitmq: Any, rabbitmq_vhost: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wrong credentials, or nobody there: what AMQP tells is told, with a warning that has no password."""
    for url in (rabbitmq.management_url.replace("://", "://guest:wr0ng@"), "http://guest:wr0ng@127.0.0.1:1"):
        caplog.clear()
        async with opened(rabbitmq_vhost, management_url=url) as transport:
            await declare(transport, EMAILS, STOCK)
            stats = await transport.stats(EMAILS)
            assert (stats.depth, stats.in_flight) == (0, None)
            (unknown,) = await transport.plan(entities(STOCK))
            assert (unknown.action, unknown.property) == ("unknown", "bindings")
            found = {finding.subject: finding for finding in await transport.diagnose()}
            assert found["nodes"].level == "warn"
            assert "management_url" in found["nodes"].says
        assert "wr0ng" not in caplog.text + repr(transport) + repr(transport._management) + str(found)
        assert "unsettled messages are not known" in caplog.text
        assert "bindings and policies are not known" in caplog.text


@asynccontextmanager
async def answering(text: str) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP server that always answers the same: its URL, and the requests that it got."""
    requests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(text.format(port=writer.get_extra_info("sockname")[1]).encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{port}/elsewhere\r\n\r\n", ConnectionFailed),
        ("HTTP/1.0 403 Forbidden\r\n\r\n", AccessDenied),
        ("HTTP/1.0 200 OK\r\n\r\n<html>", ConnectionFailed),
        ("nonsense\r\n\r\n", ConnectionFailed),
        ("", ConnectionFailed),
    ],
)
async def test_other_answers_are_errors(text: str, kind: type[Exception]) -> None:
    """And nobody is followed to another place, where the password would go along."""
    async with answering(text) as (url, requests):
        management = Management(url, make_settings("amqp://u:p@h/v%2Fw"))
        with pytest.raises(kind, match="management_url"):
            await management.bindings("t", "t--s")
    assert len(requests) == 1
    assert requests[0].startswith("GET /api/bindings/v%2Fw/e/t/q/t--s ")
    assert "Authorization: Basic dTpw" in requests[0]


async def test_what_is_not_there_is_nothing(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """No bindings, and a number that nobody knows."""
    management = Management(rabbitmq.management_url, make_settings(rabbitmq_vhost))
    assert await management.bindings("nope", "nope") == []
    assert await management.unsettled("nope") is None


async def test_dead_letters_of_an_older_server(
    rabbitmq: Any, rabbitmq_vhost: str, watcher: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A start goes on with their queue; a look, each of which 4.0 counts, waits for a policy that can be seen."""
    letters = Queue[Any]("emails").dead_letters
    async with opened(rabbitmq_vhost) as transport:
        channel = await open_channel(await transport.consuming.wait_up())
        await channel.declare_queue("emails--dead", {"x-queue-type": "quorum"})  # as it is declared on 3.x
        for _ in range(2):
            await declare(transport, Queue("emails"))
        (left,) = await transport.plan(entities(Queue("emails")))
        assert (left.address, left.action, left.property) == (letters, "unknown", "x-delivery-limit")
        assert "rabbitmqctl set_policy emails--dead" in left.command
        assert left.command in caplog.text
        await publish_all(transport, letters, message(id="old"))
    async with opened(rabbitmq_vhost) as blind, opened(rabbitmq_vhost, management_url=watcher) as seeing:
        for transport in (blind, seeing):
            for asked in (transport.browse(letters), transport.remove(letters, ["x"])):
                with pytest.raises(TransportError, match=r"can be handled, and not looked at: .*set_policy") as refused:
                    await asked
                assert not refused.value.transient
        vhost = rabbitmq_vhost.rpartition("/")[2]
        policy = {"pattern": "--dead$", "definition": {"delivery-limit": -1}, "apply-to": "quorum_queues"}
        await asyncio.to_thread(rabbitmq.api, "PUT", f"/policies/{vhost}/dead-letters", policy)
        assert [each.message.id for each in await seeing.browse(letters)] == ["old"]
        # One that is declared follows the policy at once.
        channel = await open_channel(await seeing.consuming.wait_up())
        await channel.declare_queue("other--dead", {"x-queue-type": "quorum"})
        other = Queue[Any]("other").dead_letters
        await publish_all(seeing, other, message(id="old"))
        for _ in range(30):
            assert [each.message.id for each in await seeing.browse(other)] == ["old"]


async def test_dead_letters_that_differ_in_more_are_a_conflict(rabbitmq_vhost: str) -> None:
    """Only what an older server could not have is excused."""
    async with opened(rabbitmq_vhost) as transport:
        channel = await open_channel(await transport.consuming.wait_up())
        await channel.declare_queue("a--dead", {"x-queue-type": "quorum", "x-delivery-limit": 5})
        await channel.declare_queue("b--dead", {"x-queue-type": "quorum", "x-max-length": 5})
        changes = await transport.plan(entities(Queue("a"), Queue("b")))
        conflicts = [(str(each.address), each.property) for each in changes if each.action == "conflict"]
        assert [address for address, _ in conflicts] == ["a!dead", "b!dead"]
