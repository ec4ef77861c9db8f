"""The harness of this plugin for the conformance kit.

What is native goes through a client of its own for each question: another one than the transport's in all but the
library, with none of its code.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr

from busframe.conformance import BrokerState, Harness, NotRunnable
from busframe.conformance.harnesses import read_url
from busframe.conformance.proxy import Proxy
from busframe.logic.wire import split_headers
from busframe.model.destination import Address, Subscription, Topic
from busframe.spi.transport import Host, Transport
from busframe_nats.plugin import plugin

T = TypeVar("T")

PACKED = "Bf"
TIMEOUT_S = 20.0
ACK_WAIT_S = 3.0
SILENCE_S = 1.0


class NatsHarness(Harness):
    """A NATS server with JetStream that answers at a URL.

    Args:
        url: of the server.
        users: the URLs of a user who may use what is there and declare nothing, and of one who may do nothing; they
            stand in a server's configuration, so that no harness can make them.
    """

    tls_scheme = "nats+tls"
    tls_greeting = b'INFO {"server_id":"kit","version":"2.10.0","max_payload":1048576,"tls_required":true}\r\n'
    late_acks = True
    lock_s = ACK_WAIT_S
    silence_s = SILENCE_S

    def __init__(self, url: str, users: tuple[str, str] | None = None) -> None:
        self.url = url if "ack_wait_s=" in url else f"{url}{'&' if '?' in url else '?'}ack_wait_s={ACK_WAIT_S:g}"
        self.name = "nats"
        self._settings = read_url(self.url)[1]
        self._server = self._settings.servers[0]
        self._root = self._settings.subject_prefix
        self._users = users
        self._proxy: Proxy | None = None

    async def start(self) -> None:
        """Ask the server for its version, for the report, and put a proxy before it."""
        self.name = f"nats {await self._ask(_version)}"
        if not self._server.tls:  # a certificate is of a name that a proxy does not have
            self._proxy = Proxy(self._server.host, self._server.port)
            await self._proxy.start()

    async def stop(self) -> None:
        """End the proxy."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await proxy.stop()

    def transport(self, host: Host) -> Transport:
        """A client with the URL's settings."""
        return self._client(self._settings, host)

    def watchful(self, host: Host) -> Transport:
        """With the shortest heartbeats: a connection is given up after two."""
        return self._client(self._settings.model_copy(update={"ping_interval_s": SILENCE_S / 2}), host)

    def _client(self, settings: Any, host: Host) -> Transport:
        if self._proxy is not None:
            who, at, _ = settings.url.get_secret_value().partition("://")[2].rpartition("@")
            url = SecretStr(f"nats://{who}{at}127.0.0.1:{self._proxy.port}")
            settings = settings.model_copy(update={"url": url})
        return plugin.create(settings, host)

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """With confirmation; headers of NATS are text, so whatever else is left out."""
        sent = {key: value for key, value in headers.items() if isinstance(value, str)}
        where = self._root + (f".t.{_token(name)}.all.0" if isinstance(to, Topic) else f".q.{_token(name)}.0")
        await self._ask(lambda client: client.jetstream(timeout=TIMEOUT_S).publish(where, body, headers=sent))

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """By a pull of one message, acknowledged at once."""
        stream, consumer = self._place(source, name)
        wanted = json.dumps({"batch": 1, "expires": int(TIMEOUT_S * 1e9)}).encode()

        async def read(client: Client) -> tuple[bytes, dict[str, str]]:
            # In the old style, for a message comes under its own subject and not under that of the answer.
            next_ = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
            got = await client.request(next_, wanted, TIMEOUT_S + 1, old_style=True)
            if not got.reply:
                raise AssertionError(f"the broker has no message in {name!r}: {got.headers}")
            await client.request(got.reply, b"+ACK", TIMEOUT_S)
            _, _, own = split_headers((got.headers or {}).items())
            return got.data, {key: value for key, value in own.items() if key != PACKED}

        return await self._ask(read)

    async def native_exists(self, to: Address, name: str) -> bool:
        """Whether there is such a stream, and for a subscription such a consumer of it."""
        stream, consumer = self._place(to, name)
        what = f"CONSUMER.INFO.{stream}.{consumer}" if isinstance(to, Subscription) else f"STREAM.INFO.{stream}"
        return "error" not in await self._api(what)

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """What its consumers say, of which an ordered one has many; the server does not tell how many clients read."""
        stream, consumer = self._place(source, name)
        listed = await self._need(f"CONSUMER.LIST.{stream}")
        mine = [each for each in listed["consumers"] if each["name"].partition("--p")[0] == consumer]
        return BrokerState(
            None, sum(int(each["num_pending"]) for each in mine), sum(int(each["num_ack_pending"]) for each in mine)
        )

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """One of those that were given."""
        if self._users is None:
            raise NotRunnable("users stand in the server's configuration")
        settings = self._settings.model_copy(update={"url": SecretStr(self._users[0 if may_use else 1])})
        return lambda host: self._client(settings, host)

    async def native_full(self, source: Address, name: str) -> None:
        """A stream with a number of messages."""
        stream, consumer = self._place(source, name)
        limited = {"retention": "workqueue", "discard": "new", "max_msgs": 2}
        await self._need(
            f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{self._root}.q.{name}.*"], **limited}
        )
        config = {"durable_name": consumer, "ack_policy": "explicit", "max_ack_pending": -1}
        await self._need(f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config})

    async def silence(self, transport: Transport) -> None:
        """Its time stands still: what is due to be renewed is not renewed."""

        async def stand_still(_: float) -> None:
            await asyncio.Event().wait()

        transport.host = replace(transport.host, sleep=stand_still)  # type: ignore[attr-defined]

    async def delete(self, source: Address, name: str) -> None:
        """The stream or, of a subscription, the consumer, under those who read it."""
        stream, consumer = self._place(source, name)
        what = f"CONSUMER.DELETE.{stream}.{consumer}" if isinstance(source, Subscription) else f"STREAM.DELETE.{stream}"
        await self._need(what)

    async def disconnect(self) -> None:
        """Reset all connections."""
        await self._need_proxy().cut()

    async def take_back(self) -> None:
        """Reset all connections, and let none come back before the server has given up on what was delivered."""
        proxy = self._need_proxy()
        await proxy.cut()
        await proxy.freeze(ACK_WAIT_S + 0.5)

    async def freeze(self, seconds: float) -> None:
        """Hold back what clients and server send."""
        await self._need_proxy().freeze(seconds)

    # ------------------------------------------------------------------------------------------ inside

    def _place(self, source: Address, name: str) -> tuple[str, str]:
        """The names of its stream and of its consumer, where its handlers ask for no order."""
        consumer = source.name if isinstance(source, Subscription) else "workers"
        stream = name.removesuffix(f"--{consumer}") if isinstance(source, Subscription) else name
        return f"{self._root}-{_token(stream)}", _token(consumer)

    def _need_proxy(self) -> Proxy:
        if self._proxy is None:
            raise NotRunnable("a connection with TLS is not led through a proxy, so it cannot be cut or frozen")
        return self._proxy

    async def _ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        settings, server = self._settings, self._server
        options: dict[str, Any] = {"error_cb": _say_nothing, "allow_reconnect": False}
        if server.user is not None:
            options |= {"user": server.user, "password": server.password}
        if settings.token is not None:
            options["token"] = settings.token.get_secret_value()
        if settings.nkey_seed is not None:
            options["nkeys_seed_str"] = settings.nkey_seed.get_secret_value()
        if settings.credentials_file is not None:
            options["user_credentials"] = str(settings.credentials_file)
        if server.tls:
            context = options["tls"] = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_cert_file is not None:
                password = settings.tls_key_password and settings.tls_key_password.get_secret_value()
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password)
            options |= {"tls_hostname": settings.tls_server_name, "tls_handshake_first": settings.tls_first}
        client = Client()
        await client.connect(server.url, **options)
        try:
            return await question(client)
        finally:
            await client.close()

    async def _api(self, what: str, body: object = None) -> Any:
        async def ask(client: Client) -> Msg:
            asked = b"" if body is None else json.dumps(body).encode()
            return await client.request(f"$JS.API.{what}", asked, TIMEOUT_S)

        return json.loads((await self._ask(ask)).data)

    async def _need(self, what: str, body: object = None) -> Any:
        answer = await self._api(what, body)
        if "error" in answer:
            raise AssertionError(f"{what}: {answer['error']}")
        return answer


async def _version(client: Client) -> str:
    return str(client.connected_server_version)


def _token(name: str) -> str:
    """As a part of a subject, and as the name of a stream: these have no dots."""
    return name.replace(".", "=")


async def _say_nothing(error: Exception) -> None:
    """Instead of the log: who asked hears of it."""


def harness(url: str) -> NatsHarness:
    """The harness for a URL that a user points at."""
    return NatsHarness(url)
