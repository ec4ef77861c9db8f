"""The harness of this plugin for the conformance kit.

What is native goes through clients of its own in a thread: other ones than the transport's in all but the library, with
none of its code.
"""

# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# because it does not see the defaults of pydantic's fields, and confluent-kafka does not mark what its admin package
# exports.

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from busframe.conformance import BrokerState, Harness, NotRunnable
from busframe.conformance.harness import SECRET
from busframe.conformance.proxy import Proxy
from busframe.conformance.world import PREFIX
from busframe.logic.wire import split_headers, text_of
from busframe.model.destination import Address, Subscription
from busframe.spi.transport import Host, Transport
from busframe_kafka.plugin import plugin
from busframe_kafka.protocol import Answer, packed

T = TypeVar("T")

TIMEOUT_S = 20.0
EXPEL_S = 4.0
"""For one request: of a server that is stopped meanwhile it is lost, and asked again."""
AGAIN_S = 0.2


class KafkaHarness(Harness):
    """A Kafka cluster that answers at a URL.

    Args:
        url: of the servers.
        session_timeout_s: after how long a killed worker's partitions go to others; the servers' default allows 6 s.
        proxy: (the port of a listener on 127.0.0.1, the port that this listener advertises). Clients are told by the
            servers where to connect, so a proxy that cuts and freezes their connections needs a listener of its own;
            None: the checks of those faults are not runnable.
        secure: (URL of a listener with TLS and SCRAM for which the URL's clients may make users and say what they may,
            the certificate that vouches for it); None: the parts of checks that need users are left out.
    """

    tls_scheme = "kafka+ssl"
    silence_s = 4.0

    def __init__(
        self,
        url: str,
        session_timeout_s: float = 6.0,
        proxy: tuple[int, int] | None = None,
        secure: tuple[str, Path] | None = None,
    ) -> None:
        self._url = url.partition("?")[0]
        self.url = f"{self._url}?session_timeout_s={session_timeout_s:g}"  # for processes that are killed
        self.name = "kafka"
        self._session_timeout_s = session_timeout_s
        self._ports = proxy
        self._proxy: Proxy | None = None
        self._secure = secure

    async def start(self) -> None:
        """Put a proxy before the server."""
        if self._ports is not None:
            behind, listen = self._ports
            self._proxy = Proxy("127.0.0.1", behind, listen=listen)
            await self._proxy.start()

    async def stop(self) -> None:
        """End the proxy."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await proxy.stop()

    def transport(self, host: Host) -> Transport:
        """A client with this plugin's default settings, but for how soon a silent worker is given up."""
        return self._client(host)

    def watchful(self, host: Host) -> Transport:
        """With the shortest wait for an answer that still lets the servers wait for messages."""
        return self._client(host, client={"socket.timeout.ms": 1600})

    def _client(self, host: Host, **settings: Any) -> Transport:
        url = self._url if self._ports is None else f"kafka://127.0.0.1:{self._ports[1]}"
        return plugin.create(
            plugin.settings(url=SecretStr(url), session_timeout_s=self._session_timeout_s, **settings), host
        )

    def url_with_bad_password(self) -> str:
        """Of the listener that asks for one."""
        if self._secure is None:
            return super().url_with_bad_password()
        url, certificate = self._secure
        scheme, _, place = url.partition("://")
        return f"{scheme}://kit:{SECRET}@{place}?sasl_mechanism=SCRAM-SHA-256&tls_ca_file={certificate}"

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """With or without the rights to read and write topics and groups; and to see how topics are set."""
        if self._secure is None:
            raise NotRunnable("no listener of Kafka is known that asks for users")
        url, certificate = self._secure
        user = f"kit-{uuid4().hex[:12]}"
        await self._ask(lambda admin: _make_user(admin, user, may_use=may_use))
        scheme, _, place = url.partition("://")
        settings = plugin.settings(
            url=SecretStr(f"{scheme}://{user}:{user}@{place}"),
            sasl_mechanism="SCRAM-SHA-256",
            tls_ca_file=certificate,
            session_timeout_s=self._session_timeout_s,
        )
        return lambda host: plugin.create(settings, host)

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """With confirmation; Kafka's headers are bytes, so what is neither text nor bytes is left out."""
        sent = [(key, value) for key, value in headers.items() if value is None or isinstance(value, str | bytes)]

        def publish() -> None:
            errors: list[object] = []
            producer = Producer(self._config())
            producer.produce(name, body, headers=sent, on_delivery=lambda error, _: errors.append(error))
            producer.flush(TIMEOUT_S)
            if errors != [None]:
                raise AssertionError(f"the server did not take a native message: {errors}")

        await asyncio.to_thread(publish)

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """As a member of the source's group that commits at once."""
        topic = _topic(source, name)

        def read(consumer: Any) -> tuple[bytes, dict[str, str]]:
            parts = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            places = consumer.committed([TopicPartition(topic, number) for number in parts], timeout=TIMEOUT_S)
            for place in places:
                place.offset = place.offset if place.offset >= 0 else OFFSET_BEGINNING
            consumer.assign(places)
            for message in consumer.consume(1, TIMEOUT_S):
                assert message.error() is None, message.error()
                consumer.commit(message=message, asynchronous=False)
                _, _, own = split_headers((key, text_of(value)) for key, value in message.headers() or ())
                return message.value() or b"", own
            raise AssertionError(f"the broker has no message in {name!r}")

        return await asyncio.to_thread(self._consume, name, read)

    async def native_exists(self, to: Address, name: str) -> bool:
        """Whether the servers have a topic of this name, or a subscription's group has offsets."""
        if isinstance(to, Subscription):
            return bool(await asyncio.to_thread(self._committed, name))
        return name in await self._ask(lambda admin: set(admin.list_topics(timeout=TIMEOUT_S).topics))

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """The members of the group, and what is above its offsets."""
        topic = _topic(source, name)

        def members(admin: Any) -> int:
            return len(admin.describe_consumer_groups([name])[name].result(TIMEOUT_S).members)

        def lag(consumer: Any) -> int:
            parts = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            behind = 0
            for place in consumer.committed([TopicPartition(topic, number) for number in parts], timeout=TIMEOUT_S):
                low, high = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                behind += high - max(low, place.offset)
            return behind

        return BrokerState(await self._ask(members), await asyncio.to_thread(self._consume, name, lag))

    async def delete(self, source: Address, name: str) -> None:
        """The topic, under its consumers."""
        topic = _topic(source, name)
        await self._ask(lambda admin: admin.delete_topics([topic])[topic].result(TIMEOUT_S))

    async def expire(self, source: Address, name: str) -> None:
        """Delete all records, as retention would."""
        topic = _topic(source, name)

        def ends(consumer: Any) -> list[TopicPartition]:
            parts = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            places = [TopicPartition(topic, number) for number in parts]
            for place in places:
                place.offset = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
            return places

        places = await asyncio.to_thread(self._consume, f"{name}-expire", ends)
        await self._ask(lambda admin: [done.result(TIMEOUT_S) for done in admin.delete_records(places).values()])

    async def disconnect(self) -> None:
        """Reset all connections, and take the clients out of their groups.

        What a consumer holds is its by its membership and not by its connection: it would come back to all of it.
        A server that was stopped meanwhile is waited for: it knows the members again.
        """
        await self._need_proxy().cut()
        until = time.monotonic() + 3 * TIMEOUT_S
        while True:
            try:
                return await asyncio.to_thread(self._expel)
            except OSError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def freeze(self, seconds: float) -> None:
        """Hold back what clients and server send."""
        await self._need_proxy().freeze(seconds)

    # ------------------------------------------------------------------------------------------ inside

    def _need_proxy(self) -> Proxy:
        if self._proxy is None:
            raise NotRunnable("connections to Kafka cannot be led through a proxy without a listener for it")
        return self._proxy

    def _config(self, **more: object) -> dict[str, Any]:
        settings = plugin.settings(url=self._url)
        server = settings.server
        config: dict[str, Any] = {"bootstrap.servers": ",".join(server.hosts), "log_level": 0}
        if server.tls:
            config["security.protocol"] = "ssl"
        if server.user is not None:
            config |= {
                "security.protocol": "sasl_ssl" if server.tls else "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": server.user,
                "sasl.password": server.password,
            }
        return {**config, **more}

    def _expel(self) -> None:
        """Say for each member that it leaves. The client library cannot say that for others; and while the server
        comes back it may abort when it is asked who is in a group.
        """
        host, _, port = plugin.settings(url=self._url).server.hosts[0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=EXPEL_S) as connection:
            listed = Answer(connection, 16, 0, b"")  # ListGroups
            listed.check()
            names = [(listed.text(), listed.text())[0] for _ in range(listed.number("i"))]
            groups = [name for name in names if name.startswith(PREFIX)]
            asked = struct.pack(">i", len(groups)) + b"".join(map(packed, groups))
            described = Answer(connection, 15, 0, asked)  # DescribeGroups
            for _ in range(described.number("i")):
                described.check()
                group, *_ = [described.text() for _ in range(4)]
                for _ in range(described.number("i")):
                    member, *_ = [described.text() for _ in range(3)]
                    described.skip(described.number("i"))
                    described.skip(described.number("i"))
                    leaving = packed(group) + struct.pack(">i", 1) + packed(member) + struct.pack(">h", -1)
                    Answer(connection, 13, 3, leaving)  # LeaveGroup

    def _consume(self, group: str, work: Callable[[Any], T]) -> T:
        consumer = Consumer(
            self._config(**{"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"})
        )
        try:
            return work(consumer)
        finally:
            consumer.close()

    def _committed(self, group: str) -> list[TopicPartition]:
        admin = AdminClient(self._config())
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        found: list[TopicPartition] = asked[group].result(TIMEOUT_S).topic_partitions
        return found

    async def _ask(self, question: Callable[[Any], T]) -> T:
        def ask() -> T:
            # It gives a request up before whoever waits does: librdkafka (2.16) may abort when it ends under one.
            admin = AdminClient(self._config(**{"socket.timeout.ms": int(900 * TIMEOUT_S)}))
            return question(admin)

        return await asyncio.to_thread(ask)


def _make_user(admin: Any, user: str, *, may_use: bool) -> None:
    sha = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    made = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, sha, user.encode())])
    made[user].result(TIMEOUT_S)
    rights = {
        ResourceType.TOPIC: (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS),
        ResourceType.GROUP: (AclOperation.READ,),
    }
    bindings = [
        AclBinding(kind, PREFIX, ResourcePatternType.PREFIXED, f"User:{user}", "*", right, AclPermissionType.ALLOW)
        for kind, granted in rights.items()
        for right in granted
        if may_use
    ]
    if bindings:
        for done in admin.create_acls(bindings).values():
            done.result(TIMEOUT_S)


def _topic(source: Address, name: str) -> str:
    return name.removesuffix(f"--{source.name}") if isinstance(source, Subscription) else name


def harness(url: str) -> KafkaHarness:
    """The harness for a URL that a user points at."""
    return KafkaHarness(url)
