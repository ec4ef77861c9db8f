"""The harness of this plugin for the conformance kit.

What is native goes through a blocking pika connection in a thread: another client than the transport's in all but the
library, with none of its code.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# because the types that it has for pika are not of this version, and know nothing of the public seam for IO services.

import asyncio
import json
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pika
from pika.exceptions import ChannelClosedByBroker

from busframe.conformance import BrokerState, Harness, NotRunnable
from busframe.conformance.proxy import Proxy
from busframe.logic.wire import split_headers, text_of
from busframe.model.destination import Address, Topic
from busframe.spi.transport import Host, Transport
from busframe_rabbitmq.plugin import plugin

T = TypeVar("T")


class RabbitMQHarness(Harness):
    """A RabbitMQ that answers at a URL.

    Args:
        url: of the server and a virtual host that the kit may fill.
        management_url: of its management plugin: through it connections with TLS are cut; all others go through a
            proxy, which can cut and freeze them.
    """

    tls_scheme = "amqps"

    def __init__(self, url: str, management_url: str | None = None) -> None:
        self.url = self._url = url
        self.name = "rabbitmq"
        self.management_url = management_url
        self._proxy: Proxy | None = None

    async def start(self) -> None:
        """Ask the server for its version, for the report, and put a proxy before it."""
        properties = await self._ask(lambda channel: channel.connection._impl.server_properties)
        self.name = f"rabbitmq {text_of(properties.get('version', ''))}"
        parts = urlsplit(self._url)
        if parts.scheme == "amqp":  # a certificate is of a name that a proxy does not have
            self._proxy = Proxy(parts.hostname or "localhost", parts.port or 5672)
            await self._proxy.start()

    async def stop(self) -> None:
        """End the proxy."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await proxy.stop()

    def transport(self, host: Host) -> Transport:
        """A client with this plugin's default settings."""
        url = self._url
        if self._proxy is not None:
            parts = urlsplit(url)
            who = parts.netloc.rpartition("@")[0]
            url = parts._replace(netloc=f"{who}{'@' if who else ''}127.0.0.1:{self._proxy.port}").geturl()
        return plugin.create(plugin.settings(url=url), host)

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
        vhost = quote(pika.URLParameters(self._url).virtual_host, safe="")
        for connection in await asyncio.to_thread(self._manage, "GET", f"/vhosts/{vhost}/connections"):
            await asyncio.to_thread(self._manage, "DELETE", f"/connections/{quote(connection['name'], safe='')}")

    async def freeze(self, seconds: float) -> None:
        """Hold back what clients and server send."""
        if self._proxy is None:
            raise NotRunnable("a connection with TLS is not led through a proxy, so it cannot be frozen")
        await self._proxy.freeze(seconds)

    def _manage(self, method: str, path: str) -> Any:
        if self.management_url is None:
            raise NotRunnable("connections are cut through the management plugin, and nobody said its URL")
        address = urlsplit(self._url)
        user = f"{address.username or 'guest'}:{address.password or 'guest'}"
        request = urllib.request.Request(
            f"{self.management_url}/api{path}",
            method=method,
            headers={
                "Authorization": f"Basic {b64encode(user.encode()).decode()}",
                "X-Reason": f"kit {uuid4().hex[:6]}",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    async def _ask(self, question: Callable[[Any], T]) -> T:
        def ask() -> T:
            connection = pika.BlockingConnection(pika.URLParameters(self._url))
            try:
                return question(connection.channel())
            finally:
                if connection.is_open:
                    connection.close()

        return await asyncio.to_thread(ask)


def harness(url: str) -> RabbitMQHarness:
    """The harness for a URL that a user points at."""
    return RabbitMQHarness(url)
