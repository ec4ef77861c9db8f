"""busframe_rabbitmq.tls: certificates of both sides, on a server that demands them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from trustme import CA

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe.model.destination import Queue
from busframe_rabbitmq.client import connect
from busframe_rabbitmq.tls import make_context, read_refusal
from plugins.rabbitmq.tests.certificates import allow_external, serve_tls, write
from plugins.rabbitmq.tests.support import make_settings, opened
from tests.brokers.rabbitmq import RabbitMQ
from tests.support.transports import Reports, consuming, declare, frozen, message, proxied, publish_all, take

EMAILS = Queue[Any]("emails")
Files = dict[str, Any]


@pytest.fixture(scope="module")
def authority() -> CA:
    """Who signs both sides' certificates."""
    return CA()


@pytest.fixture(scope="module")
def files(authority: CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The settings of a client that has all it needs."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    certificate, key = write(folder, "client", authority.issue_cert("app@client", common_name="shop"), "sec-ret")
    return {"tls_ca_file": ca, "tls_cert_file": certificate, "tls_key_file": key, "tls_key_password": "sec-ret"}


@pytest.fixture(scope="class")
def serve(breakable_rabbitmq: RabbitMQ, authority: CA) -> Callable[..., str]:
    """Make the server show a certificate for some names."""

    def serve(*names: str, **asked: Any) -> str:
        return serve_tls(breakable_rabbitmq, authority.issue_cert(*names, **asked), authority.cert_pem.bytes())

    return serve


@pytest.fixture(scope="class")
def url(serve: Callable[..., str]) -> str:
    """Of the server with a good certificate."""
    return serve("localhost")


def without(files: Files, *names: str) -> Files:
    """Settings with some of them not said."""
    return {name: value for name, value in files.items() if name not in names}


async def refusal(url: str, **more: Any) -> TransportError:
    """Why a connection was not made, with all that is nested."""
    settings = make_settings(url, **more)
    with pytest.raises(TransportError) as refused:
        await connect(settings, settings.servers[0], "test")
    return refused.value


@pytest.mark.slow
class TestOnARealServer:
    """With ``verify_peer`` and ``fail_if_no_peer_cert``."""

    async def test_messages_travel_over_tls(self, url: str, files: Files) -> None:
        """Both connections are encrypted, with the client's certificate."""
        async with opened(url, **files) as transport:
            await declare(transport, EMAILS)
            await publish_all(transport, EMAILS, *(message(b"x" * 100_000) for _ in range(20)))
            async with consuming(transport, EMAILS) as receiver:
                assert {len(got.message.body) for got in await take(receiver, 20)} == {100_000}
            for link in (transport.publishing, transport.consuming):
                assert link.connection is not None
                socket = link.connection.raw._transport._transport.get_extra_info("ssl_object")
                assert socket.version().startswith("TLSv1.")

    async def test_an_unknown_authority_is_refused(self, url: str, files: Files) -> None:
        """The system's authorities are asked, where no file is said."""
        error = await refusal(url, **without(files, "tls_ca_file"))
        assert isinstance(error, ConnectionFailed)
        assert not error.transient
        assert "tls_ca_file" in str(error)
        assert url.rpartition("@")[2] in str(error)

    async def test_another_name_is_refused(self, url: str, files: Files) -> None:
        """Unless that is what ``tls_server_name`` says."""
        elsewhere = url.replace("localhost", "127.0.0.1")
        error = await refusal(elsewhere, **files)
        assert isinstance(error, ConnectionFailed)
        assert not error.transient
        assert "tls_server_name" in str(error)
        async with opened(elsewhere, **files, tls_server_name="localhost"):
            pass

    async def test_the_server_refuses_a_client_without_certificate(self, url: str, files: Files) -> None:
        """TLS 1.3 tells it after the handshake."""
        error = await refusal(url, **without(files, "tls_cert_file", "tls_key_file", "tls_key_password"))
        assert isinstance(error, AccessDenied)
        assert "tls_cert_file" in str(error)

    async def test_the_server_refuses_a_strangers_certificate(self, url: str, files: Files, tmp_path: Path) -> None:
        """One of an authority that it does not know."""
        certificate, key = write(tmp_path, "stranger", CA().issue_cert("stranger@client"))
        error = await refusal(url, tls_ca_file=files["tls_ca_file"], tls_cert_file=certificate, tls_key_file=key)
        assert isinstance(error, AccessDenied)
        assert "tls_cert_file" in str(error)

    async def test_a_port_without_tls_is_told(self, rabbitmq_url: str, url: str, files: Files) -> None:
        """And one with TLS, to a client without."""
        error = await refusal(rabbitmq_url.replace("amqp://", "amqps://"), **files)
        assert isinstance(error, ConnectionFailed)
        assert not error.transient
        assert "5671" in str(error)
        assert "TLS" in str(await refusal(url.replace("amqps://", "amqp://")))

    async def test_a_certificate_can_be_the_login(self, breakable_rabbitmq: RabbitMQ, url: str, files: Files) -> None:
        """Its common name is the user; a server that does not offer it says so."""
        error = await refusal(url, **files, auth_mechanism="external")
        assert isinstance(error, AccessDenied)
        assert "EXTERNAL" in str(error)
        allow_external(breakable_rabbitmq)
        assert isinstance(await refusal(url, **files, auth_mechanism="external"), AccessDenied)
        breakable_rabbitmq.api("PUT", "/users/shop", {"password_hash": "", "tags": ""})
        breakable_rabbitmq.api("PUT", "/permissions/%2F/shop", {"configure": ".*", "write": ".*", "read": ".*"})
        async with opened(url, **files, auth_mechanism="external") as transport:
            await declare(transport, EMAILS)
            await publish_all(transport, EMAILS, message())

    async def test_a_black_hole_is_noticed_as_soon_as_without_tls(self, url: str, files: Files) -> None:
        """Nobody answers the goodbye that TLS asks for."""
        reports = Reports()
        async with proxied(url) as (proxy, way):
            asked = {"tls_server_name": "localhost", "heartbeat_s": 1, "connect_timeout_s": 1.0, **files}
            async with opened(way, reports=reports, **asked) as transport:
                async with frozen(proxy):
                    await reports.wait("connection", "down")
                await reports.wait("connection", "up", since=1)
                await declare(transport, EMAILS)

    async def test_an_expired_certificate_is_refused(self, serve: Callable[..., str], files: Files) -> None:
        """Last, because it changes the server's."""
        error = await refusal(serve("localhost", not_after=datetime.now(UTC) - timedelta(days=1)), **files)
        assert isinstance(error, ConnectionFailed)
        assert not error.transient
        assert "expired" in str(error)
        assert "renewed" in str(error)


# ---------------------------------------------------------------------------------------------- files


def test_files_that_cannot_be_used_are_told(files: Files, tmp_path: Path) -> None:
    """By the name of the setting; the password shows nowhere."""
    other, _ = write(tmp_path, "other", CA().issue_cert("other"))
    wrong = {
        "tls_ca_file": tmp_path / "missing",
        "tls_cert_file": other,
        "tls_key_file": files["tls_ca_file"],
        "tls_key_password": "wr0ng",
    }
    for name, value in wrong.items():
        with pytest.raises(ConnectionFailed, match=r"tls_ca_file|private key") as told:
            make_context(make_settings("amqps://h", **{**files, name: value}))
        assert not told.value.transient
        assert "wr0ng" not in str(told.value)
    with pytest.raises(ConnectionFailed, match="tls_key_password"):
        make_context(make_settings("amqps://h", **without(files, "tls_key_password")))
    with pytest.raises(ConnectionFailed, match="no certificate"):
        make_context(make_settings("amqps://h", tls_ca_file=files["tls_key_file"]))


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] x: Hostname mismatch, y. (_ssl.c:1)", ConnectionFailed, "tls_server_name"),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] handshake failure (_ssl.c:1006)", AccessDenied, "tls_cert_file"),
        ("SSLError(1, '[SSL: TLSV1_ALERT_UNKNOWN_CA] unknown ca (_ssl.c:2580)')", AccessDenied, "unknown ca"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] ssl/tls alert certificate expired", AccessDenied, "expired"),
        ("[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:1029)", ConnectionFailed, "5671"),
    ],
)
def test_what_openssl_says_is_understood(text: str, kind: type[TransportError], says: str) -> None:
    """Of several versions; what waiting cannot mend is not transient."""
    refused = read_refusal(text)
    assert isinstance(refused, kind)
    assert not refused.transient
    assert says in str(refused)


@pytest.mark.parametrize("text", ["Connection refused", "[SSL: APPLICATION_DATA_AFTER_CLOSE_NOTIFY] x", ""])
def test_other_failures_are_left_alone(text: str) -> None:
    """Waiting may mend them."""
    assert read_refusal(text) is None
