"""The settings, in ``[transports.kafka]`` or in the query of the URL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

SCHEMES = {"kafka": False, "kafka+ssl": True}
"""URL scheme → whether the connection is encrypted."""

DEFAULT_PORT = 9092

Value = str | int | float | bool

_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?(?P<hosts>[^@/?#]*)/?")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:\s]+)(?::(?P<port>\d{1,5}))?")

OWN = {
    "bootstrap.servers": "write the servers into the url",
    "metadata.broker.list": "write the servers into the url",
    "security.protocol": "the url's scheme and sasl_mechanism say it",
    "sasl.mechanism": "say sasl_mechanism",
    "sasl.mechanisms": "say sasl_mechanism",
    "sasl.username": "write it into the url",
    "sasl.password": "write it into the url, where it is kept out of logs",
    "ssl.key.password": "say tls_key_password, which is kept out of logs",
    "group.id": "each queue and each subscription has a group of its own",
    "client.id": "it is the application's name and instance",
    "transactional.id": "the producer writes without transactions",
    "group.protocol": "say group_protocol",
    "group.instance.id": "say static_member",
    "session.timeout.ms": "say session_timeout_s",
    "message.timeout.ms": "say delivery_timeout_s",
    "delivery.timeout.ms": "say delivery_timeout_s",
    "linger.ms": "say linger_s",
    "queue.buffering.max.ms": "say linger_s",
    "sticky.partitioning.linger.ms": "say sticky_s",
    "compression.codec": "say compression",
    "compression.type": "say compression",
    "message.max.bytes": "say max_message_bytes",
    "queue.buffering.max.messages": "say publish_window",
    "queue.buffering.max.kbytes": "say publish_window_bytes",
    "queued.max.messages.kbytes": "say fetch_buffer_bytes",
    "max.poll.interval.ms": "the consumer's thread polls whatever handlers do",
    "enable.auto.commit": "an offset is committed when its message is finished, and not when it was fetched",
    "enable.auto.offset.store": "an offset is committed when its message is finished, and not when it was fetched",
    "auto.commit.interval.ms": "offsets are committed each second",
    "auto.offset.reset": "what is lost must be told and not skipped",
    "allow.auto.create.topics": "a topic that the server makes by itself has any number of partitions",
    "partitioner": "the order of a key needs one partitioner in all programs: Java's",
    "partition.assignment.strategy": "only moved partitions may stop: the strategy is cooperative-sticky",
}
"""Client settings that cannot be passed through, and what to do instead."""

UNSAFE = {
    "acks": "a message that only its leader has is lost with it",
    "request.required.acks": "a message that only its leader has is lost with it",
    "enable.idempotence": "the client's own retries would double and reorder messages",
    "max.in.flight": "more than five reorder messages",
    "max.in.flight.requests.per.connection": "more than five reorder messages",
    "enable.gapless.guarantee": "one failed message would end the producer",
    "isolation.level": "messages of transactions that were taken back would be handled",
    "check.crcs": "a message that was damaged on the way would be handled",
    "enable.ssl.certificate.verification": "anybody could play the server",
    "ssl.endpoint.identification.algorithm": "any server with a certificate could play this one",
}
"""Client settings that are passed through only where ``unsafe`` names them, and what they cost."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the servers are and who we are there; the password shows in no ``repr``."""

    hosts: tuple[str, ...]
    user: str | None
    password: str | None = field(repr=False)
    tls: bool

    @property
    def shown(self) -> str:
        """For logs and errors: without user and password."""
        return f"{'kafka+ssl' if self.tls else 'kafka'}://{','.join(self.hosts)}"


class Settings(BaseModel):
    """What can be set for Kafka. All times are in seconds, all sizes in bytes.

    Attributes:
        url: ``kafka://user:password@host:9092,host2:9092``, or ``kafka+ssl://`` with the servers' certificates
            verified; the other servers of the cluster are found by these. Never shown: it holds the password.
        sasl_mechanism: how user and password are shown to the server; with a user in the URL ``PLAIN`` unless said.
            ``OAUTHBEARER`` needs ``oauth_token``.
        oauth_token: ``module:function`` that returns (token, when it expires in seconds since the epoch).
        tls_ca_file: the authorities that may have signed the servers' certificates, in PEM; the system's, if not said.
        tls_cert_file: the client's certificate and its intermediates, in PEM.
        tls_key_file: its private key, in PEM.
        tls_key_password: of an encrypted private key. Never shown.
        connect_timeout_s: for one attempt to reach a server.
        reconnect_min_s: the first pause before reconnecting; it doubles with each failure, and has jitter.
        reconnect_max_s: the longest pause before reconnecting.
        max_message_bytes: the servers' ``message.max.bytes`` or the topics' ``max.message.bytes`` (1 MiB by default).
            The framework keeps 48 KiB of it for what it may add.
        publish_window: the most unconfirmed messages that are under way.
        publish_window_bytes: the most bytes of unconfirmed messages that are under way; a single one may be larger.
        delivery_timeout_s: how long the client goes on trying to deliver a message, also when nobody waits for it any
            more; a publish with a longer ``timeout_s`` ends after this.
        linger_s: how long to wait for more messages to send together.
        sticky_s: for how long messages without a key go to one partition before another one has its turn; 0: each goes
            to one at random, so that a few long jobs do not all reach the same worker. A millisecond, and one of
            ``linger_s``, spares the servers half of their work where many are published.
        compression: of what is published.
        partitions: of topics that are created for a queue or a topic: the most workers that can share its messages.
        replication_factor: of topics that are created; None: the server's default.
        min_insync_replicas: of topics that are created: how many servers must have a message before it is confirmed;
            None: the server's default.
        topic_retention_s: how long a created topic keeps its messages; None: for ever. Queues keep theirs until they
            are handled.
        group_protocol: ``consumer`` is KIP-848, of servers from 4.0 on.
        static_member: a name of this process that is the same after a restart: a worker that comes back in time finds
            its partitions where they were. None: a new member at each start.
        session_timeout_s: a worker that is silent for so long has its partitions given to others. The server decides
            with ``group_protocol = "consumer"``.
        revoke_timeout_s: how long a partition that goes to another worker waits for the handlers of its messages.
        fetch_buffer_bytes: messages that a consumer fetches ahead.
        ack_gap: a partition with so many finished messages above its oldest unfinished one waits for that one.
        client: settings of librdkafka, passed through, such as ``{"socket.keepalive.enable": true}``.
        unsafe: the names of dangerous settings that ``client`` is allowed to have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    oauth_token: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_key_password: SecretStr | None = None
    connect_timeout_s: float = Field(10.0, gt=0)
    reconnect_min_s: float = Field(0.1, gt=0)
    reconnect_max_s: float = Field(10.0, gt=0)
    max_message_bytes: int = Field(1024 * 1024, ge=64 * 1024, le=1_000_000_000)
    publish_window: int = Field(10_000, ge=1, le=1_000_000)
    publish_window_bytes: int = Field(32 * 1024 * 1024, ge=1)
    delivery_timeout_s: float = Field(30.0, ge=1.0)
    linger_s: float = Field(0.0, ge=0, le=900)
    sticky_s: float = Field(0.0, ge=0, le=900)
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    partitions: int = Field(12, ge=1)
    replication_factor: int | None = Field(None, ge=1)
    min_insync_replicas: int | None = Field(None, ge=1)
    topic_retention_s: float | None = Field(7 * 24 * 3600.0, gt=0)
    group_protocol: Literal["classic", "consumer"] = "classic"
    static_member: str | None = Field(None, min_length=1, max_length=200)
    session_timeout_s: float = Field(45.0, ge=1.0)
    revoke_timeout_s: float = Field(10.0, ge=0)
    fetch_buffer_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024)
    ack_gap: int = Field(10_000, ge=1)
    client: Mapping[str, Value] = Field(default_factory=dict)
    unsafe: tuple[str, ...] = ()

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        match = _URL.fullmatch(url.get_secret_value())
        if match is None or match["scheme"] not in SCHEMES:
            raise ValueError("it must look like kafka://user:password@host:9092,host2:9092 or kafka+ssl://host:9093")
        if not match["hosts"]:
            raise ValueError("a host is missing, as in kafka://host:9092")
        for host in match["hosts"].split(","):
            found = _HOST.fullmatch(host)
            if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 65536:
                raise ValueError("each server is host or host:port, with a port from 1 to 65535")
        return url

    @field_validator("unsafe", mode="before")
    @classmethod
    def _one_is_a_list(cls, unsafe: object) -> object:
        return (unsafe,) if isinstance(unsafe, str) else unsafe

    @field_validator("client")
    @classmethod
    def _check_client(cls, client: Mapping[str, Value]) -> Mapping[str, Value]:
        own = [f"{name}: {OWN[name]}" for name in client if name in OWN]
        if own:
            raise ValueError(f"cannot be set: {'; '.join(own)}")
        return client

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        unsafe = [
            f"{name}: {why} (to have it all the same: unsafe = [{name!r}])"
            for name, why in UNSAFE.items()
            if name in self.client and name not in self.unsafe
        ]
        if unsafe:
            raise ValueError(f"client has dangerous settings: {'; '.join(unsafe)}")
        if (self.sasl_mechanism == "OAUTHBEARER") != (self.oauth_token is not None):
            raise ValueError("sasl_mechanism = OAUTHBEARER and oauth_token go together")
        if self.sasl_mechanism not in (None, "OAUTHBEARER") and self.server.user is None:
            raise ValueError(f"sasl_mechanism = {self.sasl_mechanism} needs a user and a password in the url")
        said = [name for name in type(self).model_fields if name.startswith("tls_") and getattr(self, name) is not None]
        if said and not self.server.tls:
            raise ValueError(f"{', '.join(said)}: only for a connection with TLS: write kafka+ssl:// in the url")
        if self.tls_cert_file is None and (self.tls_key_file or self.tls_key_password):
            raise ValueError("a private key needs its certificate: say tls_cert_file as well")
        return self

    @property
    def server(self) -> Server:
        """The parts of the URL, with the protocol's defaults."""
        match = _URL.fullmatch(self.url.get_secret_value())
        assert match is not None, "_check_url looked"
        hosts = (host if host.rpartition(":")[2].isdigit() else f"{host}:{DEFAULT_PORT}" for host in
                 match["hosts"].split(","))  # fmt: skip
        user, password = match["user"], match["password"]
        return Server(
            hosts=tuple(hosts),
            user=None if user is None else unquote(user),
            password=None if user is None else unquote(password or ""),
            tls=SCHEMES[match["scheme"]],
        )
