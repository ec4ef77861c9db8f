"""busframe_nats.client and busframe_nats.link: losing the connection, proving who we are, TLS; on real servers."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.aio.client import Client
from trustme import CA

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe.model.destination import Queue
from busframe_nats.client import translate
from busframe_nats.transport import Nats
from plugins.nats.tests.support import cut, make_settings, opened
from tests.brokers.nats import NATS, NEWEST
from tests.brokers.ports import free_ports
from tests.support.transports import Reports, consuming, declare, frozen, make_host, message, proxied, publish_all, take

EMAILS = Queue[Any]("emails")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], NATS]]:
    """Start a server with a configuration of its own."""
    started: list[NATS] = []

    def serve(config: str) -> NATS:
        file = tmp_path / f"{len(started)}.conf"
        file.write_text(f"jetstream {{}}\n{config}")
        (port,) = free_ports(1)
        folder = tmp_path / f"{len(started)}"
        folder.mkdir()
        server = NATS(f"nats://127.0.0.1:{port}", NEWEST.runner(folder, port, file))
        server.start()
        started.append(server)
        return server

    yield serve
    for server in started:
        server.stop()


# ---------------------------------------------------------------------------------------------- losing it


def _lost_by_error(connection: Any) -> None:
    """The server closes a connection that breaks the protocol, with an error after which nats-py is closed for good."""
    connection.write(b"NONSENSE\r\n")


def _lost_by_reader(connection: Any) -> None:
    """nats-py's reader ends in silence when anything in it raises."""
    connection.raw._reading_task.cancel()


def _lost_by_network(connection: Any) -> None:
    """A reset."""
    connection._socket.abort()


def _closed_by_user(connection: Any) -> None:
    """Somebody closes the native client."""
    connection.raw.closing = asyncio.ensure_future(connection.raw.close())


@pytest.mark.parametrize("lose", [_lost_by_error, _lost_by_reader, _lost_by_network, _closed_by_user])
async def test_however_it_is_lost_it_comes_back(nats_url: str, lose: Callable[[Any], None]) -> None:
    """As a new client, with what is consumed and what is under way."""
    reports = Reports()
    async with opened(nats_url, reports=reports) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS) as receiver:
            before = transport.native
            lose(transport.link.connection)
            await reports.wait("connection", "down")
            await reports.wait("connection", "up", since=1)
            assert transport.native is not before
            await publish_all(transport, EMAILS, message())
            await take(receiver, 1)
            assert ("emails", "up") in [report[:2] for report in reports]


async def test_an_answer_that_comes_too_late_ends_nothing(nats_url: str) -> None:
    """nats-py stops reading for ever when a pong comes for which nobody waits any more."""
    async with opened(nats_url) as transport:
        connection = transport.link.connection
        assert connection is not None
        for _ in range(3):
            waiting = asyncio.ensure_future(connection.ping())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        connection._ping().cancel()
        await connection.ping()
        assert transport.link.connection is connection


async def test_a_function_that_raises_does_not_end_the_reader(nats_url: str) -> None:
    """It is logged."""

    def raises(*_: object) -> None:
        raise RuntimeError("a bug")

    async with opened(nats_url) as transport:
        connection = transport.link.connection
        assert connection is not None
        inbox = connection.new_inbox()
        connection.subscribe(inbox, raises)
        connection.write(f"PUB {inbox} 0\r\n\r\n".encode())
        await connection.ping()
        assert transport.link.connection is connection


async def test_a_server_that_says_nothing_is_given_up(nats_url: str) -> None:
    """Although the connection stands, and although a lot waits to be written to it."""
    base, _, query = nats_url.partition("?")
    reports = Reports()
    async with (
        proxied(base) as (proxy, url),
        opened(f"{url}?{query}", reports=reports, ping_interval_s=0.2) as transport,
    ):
        await declare(transport, EMAILS)
        async with frozen(proxy):
            much = [message(b"x" * 500_000) for _ in range(20)]
            publishing = asyncio.create_task(publish_all(transport, EMAILS, *much))
            await reports.wait("connection", "down")
        await publishing


async def test_the_next_server_of_the_url_is_tried(nats: NATS) -> None:
    """At the start, and when one is lost."""
    (nobody,) = free_ports(1)
    address = nats.url.rpartition("@")[2]
    reports = Reports()
    async with opened(nats.url.replace(address, f"127.0.0.1:{nobody},{address}"), reports=reports) as transport:
        cut(transport)
        await reports.wait("connection", "down")
        await reports.wait("connection", "up", since=1)


async def test_nothing_is_left_of_a_connection_that_failed() -> None:
    """Where nothing listens, and where something listens that is no NATS and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    (nobody,) = free_ports(1)
    before = asyncio.all_tasks()
    for port, timeout_s in ((nobody, 5.0), (silent.sockets[0].getsockname()[1], 0.2)):
        transport = Nats(make_settings(f"nats://127.0.0.1:{port}", connect_timeout_s=timeout_s), make_host())
        with pytest.raises(ConnectionFailed) as failed:
            await transport.open()
        assert failed.value.transient
        assert f"127.0.0.1:{port}" in str(failed.value)
    assert asyncio.all_tasks() == before
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    silent.close()


async def test_a_server_that_takes_only_small_messages_is_refused(serve: Callable[[str], NATS]) -> None:
    """A failure record would not fit."""
    assert "max_payload" in str(await _refused(serve("max_payload: 65536").url))


# ---------------------------------------------------------------------------------------------- who we are


async def _works(url: str, **more: Any) -> None:
    async with opened(url, **more) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())


async def _refused(url: str, **more: Any) -> TransportError:
    with pytest.raises(TransportError) as refused:
        await _works(url, **more)
    assert not refused.value.transient
    assert "s3cret" not in str(refused.value)
    return refused.value


async def test_a_user_and_a_password(nats: NATS) -> None:
    """In the URL, escaped."""
    await _works(nats.url)
    assert isinstance(await _refused(nats.url.replace("secret", "s3cret")), AccessDenied)


async def test_a_token(serve: Callable[[str], NATS]) -> None:
    """Instead of a user."""
    server = serve('authorization { token: "s3cret-token" }')
    await _works(server.url, token="s3cret-token")
    assert isinstance(await _refused(server.url, token="s3cret-other"), AccessDenied)


_OPERATOR, _ACCOUNT = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT


def _seed(kind: int = nkeys.PREFIX_BYTE_USER) -> tuple[str, Any]:
    seed = nkeys.encode_seed(sha256(f"{kind}{time.time_ns()}".encode()).digest(), kind)
    return seed.decode(), nkeys.from_seed(bytearray(seed))


async def test_a_key_pair(serve: Callable[[str], NATS]) -> None:
    """The server knows its public part."""
    seed, pair = _seed()
    server = serve(f"authorization {{ users: [ {{ nkey: {pair.public_key.decode()} }} ] }}")
    await _works(server.url, nkey_seed=seed)
    assert isinstance(await _refused(server.url, nkey_seed=_seed()[0]), AccessDenied)
    assert isinstance(await _refused(server.url, nkey_seed="nonsense"), TransportError)


def _public(pair: Any) -> str:
    return str(pair.public_key.decode())


def _jwt(issuer: Any, subject: Any, name: str, nats: dict[str, Any]) -> str:
    """As ``nsc`` makes it (nats-io/jwt, version 2)."""

    def text(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    claims = {"iss": _public(issuer), "sub": _public(subject), "name": name, "iat": int(time.time()), "jti": name}
    body = f"{text({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{text({**claims, 'nats': {**nats, 'version': 2}})}"
    return f"{body}.{base64.urlsafe_b64encode(issuer.sign(body.encode())).decode().rstrip('=')}"


async def test_a_credentials_file(serve: Callable[[str], NATS], tmp_path: Path) -> None:
    """Of a user of an account of an operator; one that is no such file is refused, and not searched for ever."""
    operator, account, system = (_seed(kind)[1] for kind in (_OPERATOR, _ACCOUNT, _ACCOUNT))
    seed, user = _seed()
    limits = dict.fromkeys(("subs", "data", "payload", "conn"), -1)
    signed = {
        _public(each): _jwt(operator, each, "account", {"type": "account", "limits": limits})
        for each in (account, system)
    }
    user_jwt = _jwt(account, user, "user", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    preload = ", ".join(f"{name}: {text}" for name, text in signed.items())
    server = serve(
        f"operator: {_jwt(operator, operator, 'operator', {'type': 'operator'})}\nsystem_account: {_public(system)}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {preload} }}"
    )
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    async with opened(server.url, credentials_file=file) as transport:
        assert transport.native is not None
    assert isinstance(await _refused(server.url), AccessDenied)
    file.write_text("nonsense")
    assert "holds no user's JWT" in str(await _refused(server.url, credentials_file=file))
    assert "cannot be read" in str(await _refused(server.url, credentials_file=tmp_path / "missing"))


async def test_where_answers_may_not_come_it_is_said_at_once(serve: Callable[[str], NATS]) -> None:
    """And the inbox can be one that is allowed."""
    server = serve(
        "authorization { users: [ { user: u, password: s3cret, permissions: { subscribe: { allow: [shop.>] } } } ] }"
    )
    url = server.url.replace("://", "://u:s3cret@")
    async with asyncio.timeout(3):
        assert "see inbox_prefix" in str(await _refused(url))
    await _works(url, inbox_prefix="shop.inbox")


# ---------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> CA:
    """Who signs both sides' certificates."""
    return CA()


def _files(folder: Path, authority: CA, *names: str) -> tuple[Path, Path, Path]:
    leaf = authority.issue_cert(*names)
    certificate, key, ca = (folder / f"{names[0]}.{kind}" for kind in ("pem", "key", "ca"))
    leaf.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    authority.cert_pem.write_to_path(str(ca))
    return certificate, key, ca


def _tls(url: str) -> str:
    return url.replace("nats://", "nats+tls://")


@pytest.mark.parametrize("first", [False, True])
async def test_tls_with_a_certificate_on_both_sides(
    serve: Callable[[str], NATS], tmp_path: Path, authority: CA, first: bool
) -> None:
    """After the server's greeting, and before it."""
    certificate, key, ca = _files(tmp_path, authority, "localhost")
    mine, my_key, _ = _files(tmp_path, authority, "app@client")
    extra = "handshake_first: auto," if first else ""
    server = serve(f"tls {{ {extra} cert_file: {certificate}, key_file: {key}, ca_file: {ca}, verify: true }}")
    url = _tls(server.url)
    both: dict[str, Any] = {"tls_ca_file": ca, "tls_cert_file": mine, "tls_key_file": my_key, "tls_first": first}
    await _works(url, tls_server_name="localhost", **both)
    assert "another name" in str(await _refused(url, **both))
    if not first:
        without = await _refused(url, tls_server_name="localhost", tls_ca_file=ca)
        assert isinstance(without, AccessDenied)
        assert "demands a client certificate" in str(without)
    unknown = CA()
    unknown.cert_pem.write_to_path(str(tmp_path / "unknown"))
    strange = {**both, "tls_ca_file": tmp_path / "unknown"}
    assert "not accepted" in str(await _refused(url, tls_server_name="localhost", **strange))


async def test_no_password_is_sent_to_a_server_without_tls(nats: NATS) -> None:
    """nats-py goes by what the server asks for, and would send it in plain text."""
    refused = await _refused(_tls(nats.url))
    assert "speaks no TLS" in str(refused)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (OSError("Connection refused"), ConnectionFailed, True),
        (TimeoutError(), ConnectionFailed, True),
        (ValueError("nats: 'maximum connections exceeded'"), ConnectionFailed, True),
    ],
)
def test_an_error_keeps_its_cause(error: Exception, kind: type[TransportError], transient: bool) -> None:
    """And says whether waiting helps."""
    found = translate(error)
    assert isinstance(found, kind)
    assert found.transient is transient
    assert found.__cause__ is error
    assert translate(found) is found


def test_what_is_used_of_the_client_library_is_there() -> None:
    """Its private parts are used in one file; another version of it may have others."""
    for name in ("_process_pong", "_process_info", "_send_ping"):
        assert asyncio.iscoroutinefunction(getattr(Client, name))
    client = Client()
    for name in (
        "_reading_task",
        "_ping_interval_task",
        "_flusher_task",
        "_pongs",
        "_ps",
        "_sid",
        "_subs",
        "_transport",
    ):
        assert hasattr(client, name)
