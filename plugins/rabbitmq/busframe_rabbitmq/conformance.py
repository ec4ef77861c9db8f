"""The harness of this plugin for the conformance kit.

What is native goes through a blocking pika connection in a thread: another client than the transport's in all but the
library, with none of its code.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# because the types that it has for pika are not of this version, and know nothing of the public seam for IO services.

import asyncio
import json
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import pika
from pika.credentials import ExternalCredentials
from pika.exceptions import ChannelClosedByBroker
from pydantic import SecretStr

from busframe.conformance import BrokerState, Harness, NotRunnable
from busframe.conformance.harnesses import read_url
from busframe.conformance.proxy import Proxy
from busframe.logic.wire import split_headers, text_of
from busframe.model.destination import Address, Topic
from busframe.spi.transport import Host, Transport
from busframe_rabbitmq.plugin import plugin
from busframe_rabbitmq.settings import split_management_url

T = TypeVar("T")


class RabbitMQHarness(Harness):
    """A RabbitMQ that answers at a URL.

    Args:
        url: of the server and a virtual host that the kit may fill.
        management_url: of its management plugin, if the URL does not say it: through it users are made, and connections
            with TLS are cut; all others go through a proxy, which can cut and freeze them.
    """

    tls_scheme = "amqps"
    silence_s = 2.0

    def __init__(self, url: str, management_url: str | None = None) -> None:
        self.url = url
        self.name = "rabbitmq"
        self._settings = read_url(url)[1]
        self._node = self._settings.servers[0]
        said = self._settings.management_url
        self.management_url = management_url or (said and said.get_secret_value())
        self._proxy: Proxy | None = None
        self._users: dict[bool, str] = {}

    async def start(self) -> None:
        """Ask the server for its version, for the report, and put a proxy before it."""
        properties = await self._ask(lambda channel: channel.connection._impl.server_properties)
        self.name = f"rabbitmq {text_of(properties.get('version', ''))}"
        if not self._node.tls:  # a certificate is of a name that a proxy does not have
            self._proxy = Proxy(self._node.host, self._node.port)
            await self._proxy.start()

    async def stop(self) -> None:
        """End the proxy, and the users."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await proxy.stop()
        users, self._users = self._users, {}
        for user in users.values():
            await asyncio.to_thread(self._manage, "DELETE", f"/users/{user}")

    def transport(self, host: Host) -> Transport:
        """A client with the URL's settings."""
        return self._client(self._own, host)

    def watchful(self, host: Host) -> Transport:
        """With the shortest heartbeats: a connection is given up after two."""
        return self._client(self._own, host, heartbeat_s=1)

    @property
    def _own(self) -> str:
        return f"{quote(self._node.user, safe='')}:{quote(self._node.password, safe='')}"

    def _client(self, who: str, host: Host, **settings: Any) -> Transport:
        port, place = self._node.port, self._node.host
        if self._proxy is not None:
            port, place = self._proxy.port, "127.0.0.1"
        place = f"[{place}]" if ":" in place else place
        scheme, vhost = "amqps" if self._node.tls else "amqp", quote(self._node.vhost, safe="")
        url = SecretStr(f"{scheme}://{who}@{place}:{port}/{vhost}")
        return plugin.create(self._settings.model_copy(update={"url": url, **settings}), host)

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """With confirmation; pika has no floats, so those are left out."""
        sent = {key: value for key, value in headers.items() if not isinstance(value, float)}

        def publish(channel: Any) -> None:
            channel.confirm_delivery()
            exchange, key = (name, "") if isinstance(to, Topic) else ("", name)
            channel.basic_publish(exchange, key, body, pika.BasicProperties(headers=sent))

        await self._ask(publish)

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """By ``basic.get``, acknowledged at once."""

        def get(channel: Any) -> tuple[bytes, dict[str, str]]:
            method, properties, body = channel.basic_get(name, auto_ack=True)
            if method is None:
                raise AssertionError(f"the broker has no message in {name!r}")
            _, _, own = split_headers((key, text_of(value)) for key, value in (properties.headers or {}).items())
            return body, own

        return await self._ask(get)

    async def native_exists(self, to: Address, name: str) -> bool:
        """By a passive declaration."""

        def look(channel: Any) -> bool:
            try:
                if isinstance(to, Topic):
                    channel.exchange_declare(name, passive=True)
                else:
                    channel.queue_declare(name, passive=True)
            except ChannelClosedByBroker:
                return False
            return True

        return await self._ask(look)

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """What a passive declaration answers; AMQP does not say what is unsettled."""

        def look(channel: Any) -> BrokerState:
            found = channel.queue_declare(name, passive=True).method
            return BrokerState(int(found.consumer_count), int(found.message_count))

        return await self._ask(look)

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """With or without the rights to write and read, and without the one to configure."""
        if may_use not in self._users:
            user, rights = f"kit-{uuid4().hex[:12]}", ".*" if may_use else ""
            await asyncio.to_thread(self._manage, "PUT", f"/users/{user}", {"password": user, "tags": ""})
            self._users[may_use] = user
            permissions = {"configure": "", "write": rights, "read": rights}
            vhost = quote(self._node.vhost, safe="")
            await asyncio.to_thread(self._manage, "PUT", f"/permissions/{vhost}/{user}", permissions)
        who = f"{self._users[may_use]}:{self._users[may_use]}"
        return lambda host: self._client(who, host)

    async def native_full(self, source: Address, name: str) -> None:
        """A quorum queue with a length."""
        limited = {"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"}
        await self._ask(lambda channel: channel.queue_declare(name, durable=True, arguments=limited))

    async def native_limited(self, source: Address, name: str) -> bool:
        """A quorum queue with a low delivery limit."""
        limited = {"x-queue-type": "quorum", "x-delivery-limit": 1}
        await self._ask(lambda channel: channel.queue_declare(name, durable=True, arguments=limited))
        return True

    async def delete(self, source: Address, name: str) -> None:
        """Under its consumers."""
        await self._ask(lambda channel: channel.queue_delete(name))

    async def disconnect(self) -> None:
        """Reset all connections; with TLS, close those that the server lists, which takes it some seconds to do."""
        if self._proxy is not None:
            await self._proxy.cut()
            return
        vhost = quote(self._node.vhost, safe="")
        for connection in await asyncio.to_thread(self._manage, "GET", f"/vhosts/{vhost}/connections"):
            await asyncio.to_thread(self._manage, "DELETE", f"/connections/{quote(connection['name'], safe='')}")

    async def freeze(self, seconds: float) -> None:
        """Hold back what clients and server send."""
        if self._proxy is None:
            raise NotRunnable("a connection with TLS is not led through a proxy, so it cannot be frozen")
        await self._proxy.freeze(seconds)

    def _manage(self, method: str, path: str, body: object = None) -> Any:
        if self.management_url is None:
            raise NotRunnable("it is done through the management plugin, and no management_url is said")
        root, user, password = split_management_url(self.management_url)
        who = f"{self._node.user}:{self._node.password}" if user is None else f"{user}:{password}"
        request = urllib.request.Request(
            f"{root}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Basic {b64encode(who.encode()).decode()}",
                "Content-Type": "application/json",
                "X-Reason": f"kit {uuid4().hex[:6]}",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    async def _ask(self, question: Callable[[Any], T]) -> T:
        def ask() -> T:
            connection = pika.BlockingConnection(self._parameters())
            try:
                return question(connection.channel())
            finally:
                if connection.is_open:
                    connection.close()

        return await asyncio.to_thread(ask)

    def _parameters(self) -> pika.ConnectionParameters:
        server, settings = self._node, self._settings
        tls = None
        if server.tls:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_cert_file is not None:
                password = settings.tls_key_password and settings.tls_key_password.get_secret_value()
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password)
            tls = pika.SSLOptions(context, settings.tls_server_name or server.host)
        external = settings.auth_mechanism == "external"
        credentials = ExternalCredentials() if external else pika.PlainCredentials(server.user, server.password)
        return pika.ConnectionParameters(server.host, server.port, server.vhost, credentials, ssl_options=tls)


def harness(url: str) -> RabbitMQHarness:
    """The harness for a URL that a user points at."""
    return RabbitMQHarness(url)
