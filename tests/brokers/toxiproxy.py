"""Toxiproxy: a proxy between clients and a server, for what goes wrong in networks (github.com/Shopify/toxiproxy).

It is no broker, but found and run like one: given by the URL of its HTTP API, or built here, which takes Go.
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.brokers.cache import cached
from tests.brokers.find import Broker, GivenRunner
from tests.brokers.ports import free_ports
from tests.brokers.process import ProcessRunner, checked_output
from tests.brokers.server import Server, Unavailable

_VERSION = "2.12.0"
_PROGRAM = "server"  # as `go install` calls it, after its folder

Stream = Literal["upstream", "downstream"]
"""``upstream``: what clients send; ``downstream``: what the server sends."""


class Toxiproxy(Server):
    """The proxies of one test; `url` is its HTTP API's."""

    start_timeout_s = 10.0

    def ready(self) -> bool:
        """Say whether the API answers."""
        try:
            self.api("GET", "/version")
        except OSError:
            return False
        return True

    @contextmanager
    def before(self, url: str) -> Iterator["Proxy"]:
        """Put a proxy before the server at *url*; it is gone afterwards, and its connections are cut."""
        proxy = Proxy(self, url, free_ports(1)[0])
        server = urlsplit(url).netloc.rpartition("@")[2]
        self.api("POST", "/proxies", {"name": proxy.name, "listen": proxy.name, "upstream": server})
        try:
            yield proxy
        finally:
            self.api("DELETE", f"/proxies/{proxy.name}")

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the HTTP API.

        Raises:
            OSError: it does not answer or refuses (then an `urllib.error.HTTPError`).
        """
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None


class Proxy:
    """One way to a server.

    Attributes:
        name: where it listens, as host:port.
        url: the server's URL, by this way.
    """

    def __init__(self, toxiproxy: Toxiproxy, url: str, port: int) -> None:
        self.name = f"127.0.0.1:{port}"
        server = urlsplit(url)
        user, at, _ = server.netloc.rpartition("@")
        self.url = server._replace(netloc=f"{user}{at}{self.name}").geturl()
        self._toxiproxy = toxiproxy

    def cut(self) -> None:
        """Close every connection, on both sides; when it returns, new ones are welcome."""
        for enabled in (False, True):
            self._toxiproxy.api("POST", f"/proxies/{self.name}", {"enabled": enabled})

    @contextmanager
    def toxic(self, kind: str, stream: Stream, **attributes: int) -> Iterator[None]:
        """Spoil what goes one way, for a while, on connections that are there and on new ones.

        Args:
            kind: ``latency`` (``latency``, ``jitter``: ms), ``bandwidth`` (``rate``: kB/s), ``timeout`` (``timeout=0``:
                everything is swallowed, and the connections stay; they are closed when it ends), ``slicer``
                (``average_size``: bytes, ``delay``: µs).
            stream: which way.
            attributes: of this kind.
        """
        name = f"{kind}-{stream}"
        toxic = {"name": name, "type": kind, "stream": stream, "attributes": attributes}
        self._toxiproxy.api("POST", f"/proxies/{self.name}/toxics", toxic)
        try:
            yield
        finally:
            self._toxiproxy.api("DELETE", f"/proxies/{self.name}/toxics/{name}")


def _install(folder: Path, port: int | None) -> Toxiproxy:
    program = cached(f"toxiproxy-{_VERSION}", _build) / _PROGRAM
    port = port or free_ports(1)[0]
    command = [str(program), "-host", "127.0.0.1", "-port", str(port)]
    return Toxiproxy(f"http://127.0.0.1:{port}", ProcessRunner(command, folder))


def _build(folder: Path) -> None:
    if shutil.which("go") is None:
        raise Unavailable("building it takes Go, and there is no `go`")
    package = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{_VERSION}"
    folder.mkdir(parents=True)
    try:
        checked_output(["go", "install", package], env={**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"})
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"building it failed: {str(error).strip().splitlines()[-1]}") from error


BROKER = Broker(
    "toxiproxy",
    "BUSFRAME_TEST_TOXIPROXY_URL",
    given=lambda url: Toxiproxy(url, GivenRunner()),
    compose=None,  # a container would not reach what listens on this machine's loopback
    install=_install,
)
BROKERS = (BROKER,)
