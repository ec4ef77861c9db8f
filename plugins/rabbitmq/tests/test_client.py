"""busframe_rabbitmq.client: errors, and one attempt to connect."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import pytest
from pika import exceptions

from busframe.errors import AccessDenied, BusframeError, ConnectionFailed
from busframe.model.destination import Queue
from busframe_rabbitmq.client import ERRORS, ChannelRefused, Connection, translate
from busframe_rabbitmq.client import connect as connect_to
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import make_settings, opened
from tests.support.transports import declare, eventually, make_host


async def connect(url: str, **more: Any) -> Connection:
    """Connect to the only host of a URL."""
    settings = make_settings(url, **more)
    return await connect_to(settings, settings.servers[0], "test")


def instances() -> list[BaseException]:
    """One of each of pika's exceptions."""
    made: list[BaseException] = [OSError("x")]
    for kind in vars(exceptions).values():
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__ == exceptions.__name__:
            for arguments in ((), ("x",), (404, "x"), ("x", "y", "z")):
                try:
                    made.append(kind(*arguments))
                except TypeError:
                    continue
                break
            else:
                raise AssertionError(f"cannot make a {kind}")
    return made


@pytest.mark.parametrize("error", instances(), ids=lambda error: type(error).__name__)
def test_every_exception_of_the_client_becomes_one_of_ours(error: BaseException) -> None:
    """With the client's as its cause."""
    translated = translate(error)
    assert isinstance(translated, BusframeError)
    assert translated.__cause__ is error
    assert translate(translated) is translated


def test_every_entry_of_the_table_is_used() -> None:
    """Each class is an exception, and its translation has a transient flag."""
    assert all(issubclass(kind, BaseException) for kind in ERRORS)


@pytest.mark.parametrize(("code", "transient"), [(403, False), (404, False), (406, False), (405, True), (541, True)])
def test_a_refusal_says_whether_waiting_helps(code: int, transient: bool) -> None:
    """Missing, forbidden and different do not mend themselves."""
    refused = translate(exceptions.ChannelClosedByBroker(code, "text"))
    assert isinstance(refused, ChannelRefused)
    assert (refused.code, refused.text, refused.transient) == (code, "text", transient)
    assert isinstance(refused, AccessDenied) is (code == 403)


async def test_wrong_password_is_access_denied(rabbitmq_url: str) -> None:
    """Waiting does not help, and the password shows nowhere."""
    transport = RabbitMQ(make_settings(rabbitmq_url.replace("guest:guest", "guest:wr0ng")), make_host())
    with pytest.raises(AccessDenied) as refused:
        await transport.open()
    assert not refused.value.transient
    assert "wr0ng" not in str(refused.value) + repr(refused.value) + repr(transport)
    await transport.close()


async def test_missing_virtual_host_is_access_denied(rabbitmq_url: str) -> None:
    """The error names it, as it is in the URL and as the server calls it."""
    with pytest.raises(AccessDenied, match=r"/no%2Fpe: .*virtual host: .*no/pe"):
        await connect(rabbitmq_url.rstrip("/") + "/no%2Fpe")


async def test_virtual_hosts_have_any_name(rabbitmq: Any) -> None:
    """Percent-encoded in the URL."""
    rabbitmq.api("PUT", "/vhosts/a%2F%3Fb%20c")
    try:
        async with opened(rabbitmq.vhost_url("a/?b c")) as transport:
            await declare(transport, Queue("q"))
            assert rabbitmq.api("GET", "/queues/a%2F%3Fb%20c/q")["name"] == "q"
    finally:
        rabbitmq.api("DELETE", "/vhosts/a%2F%3Fb%20c")


async def test_nobody_listening_is_connection_failed() -> None:
    """Waiting may help; the text says where."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}") as failed:
            await connect(f"amqp://127.0.0.1:{port}")
    assert failed.value.transient


@asynccontextmanager
async def silent_server(host: str = "127.0.0.1") -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server that never answers: its port, and an event when somebody has come. At the end all have gone."""
    here, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(serve, host, 0) as server:
        yield server.sockets[0].getsockname()[1], here
        await asyncio.wait_for(gone.wait(), 10)


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    """After connect_timeout_s; nothing stays open."""
    async with silent_server() as (port, _):
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await connect(f"amqp://127.0.0.1:{port}", connect_timeout_s=0.2)


async def test_cancelled_connecting_leaves_nothing_open() -> None:
    """The socket is closed when the cancelled call is over."""
    async with silent_server() as (port, here):
        connecting = asyncio.create_task(connect(f"amqp://127.0.0.1:{port}"))
        await asyncio.wait_for(here.wait(), 10)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_an_ipv6_address_is_connected_to() -> None:
    """As it stands in the URL, in brackets."""
    async with silent_server("::1") as (port, here):
        connecting = asyncio.create_task(connect(f"amqp://[::1]:{port}"))
        await asyncio.wait_for(here.wait(), 10)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_each_address_of_a_name_is_tried(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that takes the connection is the one."""
    parts = urlsplit(rabbitmq_url)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addresses = [unused.getsockname(), (parts.hostname, parts.port)]

        async def resolve(host: str, port: int, **asked: int) -> list[Any]:
            assert host == "several.example"
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        connection = await connect(parts._replace(netloc="guest:guest@several.example").geturl())
        assert connection.server.host == "several.example"
        await connection.close()


async def test_tls_is_verified() -> None:
    """A server that speaks no TLS is not talked to, and certificates are checked."""
    async with silent_server() as (port, _):
        with pytest.raises(ConnectionFailed):
            await connect(f"amqps://127.0.0.1:{port}", connect_timeout_s=0.3)
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.slow
async def test_connections_have_names(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """The server's management shows application, instance, role, product and version, and the agreed heartbeat."""
    vhost = urlsplit(rabbitmq_vhost).path[1:]
    async with opened(rabbitmq_vhost, heartbeat_s=17) as transport:
        listed: list[dict[str, Any]] = []

        async def are_listed() -> bool:  # it takes the management some seconds
            listed[:] = await asyncio.to_thread(rabbitmq.api, "GET", f"/vhosts/{vhost}/connections")
            return [each.get("timeout") for each in listed] == [17, 17]

        await eventually(are_listed, "both connections to be listed")
        properties = [each["client_properties"] for each in listed]
        names = sorted(each["connection_name"] for each in properties)
        assert names == [f"tests {transport.host.instance} {role}" for role in ("consume", "publish")]
        assert {(each["product"], each["version"]) for each in properties} == {
            ("busframe", metadata.version("busframe-rabbitmq"))
        }
        assert transport.native.publishing is not transport.native.consuming
        assert transport.native.publishing is not None
        assert transport.native.publishing.is_open
    assert transport.native.publishing is None


async def test_close_is_idempotent_and_closed_can_be_opened_again(rabbitmq_vhost: str) -> None:
    """Also after a failed open, and beside another close."""
    transport = RabbitMQ(make_settings(rabbitmq_vhost), make_host())
    await transport.close()
    transport = RabbitMQ(make_settings(rabbitmq_vhost), make_host())
    await transport.open()
    await asyncio.gather(transport.close(), transport.close())
    await transport.close()
    assert [task for task in asyncio.all_tasks() if "busframe" in task.get_name()] == []


@pytest.mark.parametrize(
    ("code", "text", "transient"),
    [
        (404, "NOT_FOUND - no queue 'emails' in vhost '/'", False),
        (404, "NOT_FOUND - home node 'a@b' of durable queue 'emails' in vhost '/' is down or inaccessible", True),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'", False),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access", True),
    ],
)
def test_what_may_be_otherwise_in_a_moment(code: int, text: str, transient: bool) -> None:
    """A queue without its leader comes back; one that is not there does not."""
    refused = ChannelRefused(code, text)
    assert refused.transient is transient
    assert refused.is_missing is (code == 404 and not transient)
