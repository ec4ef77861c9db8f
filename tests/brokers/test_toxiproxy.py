"""The proxy that the faults of networks come from."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.brokers import toxiproxy as module
from tests.brokers.server import Unavailable
from tests.brokers.toxiproxy import Toxiproxy


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of a server that says what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

        def answer(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                while heard := client.recv(100):
                    client.sendall(heard)

        threading.Thread(target=serve, daemon=True).start()
        yield f"echo://user:secret@127.0.0.1:{server.getsockname()[1]}/path"
        server.shutdown(socket.SHUT_RDWR)


def connect(url: str) -> socket.socket:
    """A connection to the server of a URL."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=10)


def test_cut(toxiproxy: Toxiproxy, echo: str) -> None:
    """What passes through comes back; a cut ends all connections, and new ones are welcome at once."""
    with toxiproxy.before(echo) as proxy:
        assert urlsplit(proxy.url)._replace(netloc="") == urlsplit(echo)._replace(netloc="")
        assert urlsplit(proxy.url).username == "user"
        with connect(proxy.url) as one, connect(proxy.url) as other:
            for client in (one, other):
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
            proxy.cut()
            for client in (one, other):
                with contextlib.suppress(ConnectionError):
                    assert client.recv(5) == b""
        with connect(proxy.url) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        connect(proxy.url)


def test_silence(toxiproxy: Toxiproxy, echo: str) -> None:
    """A connection that is there answers no more, and is not closed before the silence is over."""
    with toxiproxy.before(echo) as proxy, connect(proxy.url) as client:
        with proxy.toxic("timeout", "downstream", timeout=0):
            client.sendall(b"hello")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(5)
            client.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert client.recv(5) == b""


def test_without_go_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where it has not been built before, and cannot be, one line says why."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    with pytest.raises(Unavailable, match="there is no `go`"):
        module.BROKER.install(tmp_path_factory.mktemp("server"), None)
