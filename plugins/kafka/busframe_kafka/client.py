"""The only file that imports the client library: its configuration, and its errors in busframe's words."""

# pyright: reportPrivateImportUsage=false
# because confluent-kafka does not mark what its admin package exports.

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from math import ceil
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from busframe.errors import AccessDenied, ConfigurationError, ConnectionFailed, TransportError
from busframe_kafka.settings import Settings

__all__ = [
    "AclOperation",
    "AdminClient",
    "AlterConfigOpType",
    "ConfigEntry",
    "ConfigResource",
    "Consumer",
    "ConsumerGroupTopicPartitions",
    "KafkaError",
    "KafkaException",
    "NewTopic",
    "OffsetSpec",
    "Producer",
    "ResourceType",
    "TopicCollection",
    "TopicPartition",
    "admin_config",
    "consumer_config",
    "error_of",
    "producer_config",
    "translate",
]

# librdkafka tells everything that matters by its callbacks; what it prints besides is for who asks for it.
log = logging.getLogger("busframe_kafka.librdkafka")
log.addHandler(logging.NullHandler())
log.propagate = log.level != logging.NOTSET

Config = dict[str, Any]

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
BEGINNING: int = OFFSET_BEGINNING
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


def at_time(seconds: float) -> OffsetSpec:
    """The first offset from this time on, in seconds since the epoch."""
    return OffsetSpec.for_timestamp(round(seconds * 1000))  # type: ignore[no-any-return]


_DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.SECURITY_DISABLED,
    }
)
_UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._SSL,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
    }
)
_PERMANENT = frozenset(
    {
        KafkaError._INVALID_ARG,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUEST,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    }
)

UNKNOWN_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
DENIED = _DENIED


def error_of(failed: object) -> KafkaError | None:
    """The client's error inside what was raised or reported; None: there is none."""
    if isinstance(failed, KafkaError):
        return failed
    if isinstance(failed, KafkaException) and failed.args and isinstance(failed.args[0], KafkaError):
        return failed.args[0]
    return None


def translate(failed: object, what: str = "") -> TransportError:
    """The same failure as a ``TransportError``, with the client's exception as its cause.

    Args:
        failed: a ``KafkaException``, a ``KafkaError``, or any other exception.
        what: what failed.
    """
    error = error_of(failed)
    text = (
        f"{what}: {failed if error is None else error.str()}" if what else str(failed if error is None else error.str())
    )
    code = error.code() if error is not None else None
    translated: TransportError
    if code in _DENIED:
        translated = AccessDenied(text)
    elif code in _UNREACHABLE:
        translated = ConnectionFailed(text)
    else:
        translated = TransportError(text, transient=code not in _PERMANENT)
    if isinstance(failed, BaseException):
        translated.__cause__ = failed
    elif error is not None:
        translated.__cause__ = KafkaException(error)
    return translated


# ---------------------------------------------------------------------------------------------- configuration


def _common(settings: Settings, client_id: str, on_error: Callable[[KafkaError], None] | None) -> Config:
    server = settings.server
    sasl = settings.sasl_mechanism or ("PLAIN" if server.user is not None else None)
    config: Config = {
        "bootstrap.servers": ",".join(server.hosts),
        "client.id": client_id,
        "security.protocol": f"{'sasl_' if sasl else ''}{'ssl' if server.tls else 'plaintext'}",
        "socket.connection.setup.timeout.ms": max(1000, round(settings.connect_timeout_s * 1000)),
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": max(1, round(settings.reconnect_min_s * 1000)),
        "reconnect.backoff.max.ms": max(1, round(settings.reconnect_max_s * 1000)),
        "log.connection.close": False,
        "logger": log,
    }
    if on_error is not None:
        config["error_cb"] = on_error
    if sasl:
        config["sasl.mechanism"] = sasl
    if sasl == "OAUTHBEARER":
        config["oauth_cb"] = _oauth_callback(settings.oauth_token or "")
    elif sasl:
        config |= {"sasl.username": server.user, "sasl.password": server.password}
    if settings.tls_ca_file is not None:
        config["ssl.ca.location"] = str(settings.tls_ca_file)
    if settings.tls_cert_file is not None:
        config["ssl.certificate.location"] = str(settings.tls_cert_file)
    if settings.tls_key_file is not None:
        config["ssl.key.location"] = str(settings.tls_key_file)
    if settings.tls_key_password is not None:
        config["ssl.key.password"] = settings.tls_key_password.get_secret_value()
    return config


def producer_config(settings: Settings, client_id: str, on_error: Callable[[KafkaError], None]) -> Config:
    """Of the producer: idempotent, confirmed by all replicas, Java's partitioner."""
    return {
        **_common(settings, client_id, on_error),
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": settings.linger_s * 1000,
        "sticky.partitioning.linger.ms": ceil(settings.sticky_s * 1000),
        "compression.type": settings.compression,
        "message.max.bytes": settings.max_message_bytes,
        "message.timeout.ms": round(settings.delivery_timeout_s * 1000),
        # The window is the producer's own; the client's is never to be the one that is full.
        "queue.buffering.max.messages": settings.publish_window + 1000,
        "queue.buffering.max.kbytes": max(
            1024, 2 * (settings.publish_window_bytes + settings.max_message_bytes) // 1024
        ),
        "topic.metadata.propagation.max.ms": 5000,
        **_only(settings.client, _CONSUMER_ONLY),
    }


def consumer_config(
    settings: Settings, client_id: str, group: str, on_error: Callable[[KafkaError], None] | None = None
) -> Config:
    """Of a consumer: it commits what is stored, each second, and is told what was lost."""
    config: Config = {
        **_common(settings, client_id, on_error),
        "group.id": group,
        "enable.auto.commit": True,
        "auto.commit.interval.ms": 1000,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "isolation.level": "read_committed",
        "check.crcs": True,
        "fetch.message.max.bytes": max(settings.max_message_bytes, 1024 * 1024),
        "queued.max.messages.kbytes": max(1, settings.fetch_buffer_bytes // 1024),
        "queued.min.messages": 10_000,
        # A second by default: after the buffer was full once, it runs empty before more is fetched.
        "fetch.queue.backoff.ms": 20,
        "group.protocol": settings.group_protocol,
    }
    if settings.static_member is not None:
        config["group.instance.id"] = settings.static_member
    if settings.group_protocol == "classic":
        timeout_ms = round(settings.session_timeout_s * 1000)
        config |= {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": timeout_ms,
            "heartbeat.interval.ms": min(1000, timeout_ms // 3),  # by heartbeats the others hear of who joins
        }
    return {**config, **_only(settings.client, _PRODUCER_ONLY)}


def registry_config(settings: Settings, client_id: str) -> Config:
    """Of a consumer that reads the registry to its end, and belongs to no group's members."""
    config = consumer_config(settings, client_id, "bf--registry")
    for name in ("group.instance.id", "partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"):
        config.pop(name, None)
    return {
        **config,
        "group.protocol": "classic",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
    }


def admin_config(settings: Settings, client_id: str, on_error: Callable[[KafkaError], None]) -> Config:
    """Of the administration client."""
    return {
        **_common(settings, client_id, on_error),
        **_only(settings.client, _PRODUCER_ONLY | _CONSUMER_ONLY),
    }


_PRODUCER_ONLY = frozenset(
    {
        "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "batch.size",
        "batch.num.messages", "retry.backoff.ms", "retry.backoff.max.ms", "retries",
        "message.send.max.retries", "compression.level", "request.timeout.ms", "topic.metadata.propagation.max.ms",
        "max.in.flight", "max.in.flight.requests.per.connection", "queue.buffering.backpressure.threshold",
    }
)  # fmt: skip
_CONSUMER_ONLY = frozenset(
    {
        "fetch.min.bytes", "fetch.wait.max.ms", "fetch.max.bytes", "fetch.message.max.bytes",
        "max.partition.fetch.bytes", "fetch.error.backoff.ms", "fetch.queue.backoff.ms", "queued.min.messages",
        "isolation.level", "check.crcs", "heartbeat.interval.ms", "coordinator.query.interval.ms",
        "group.remote.assignor", "client.rack",
    }
)  # fmt: skip


def _only(client: Mapping[str, object], others: frozenset[str]) -> Config:
    """The settings that are not another kind of client's: librdkafka warns of each that does not concern it."""
    return {name: value for name, value in client.items() if name not in others}


def _oauth_callback(path: str) -> Callable[[str], tuple[str, float]]:
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"oauth_token = {path!r} cannot be imported: {error}") from error

    def token(_: str) -> tuple[str, float]:
        made: tuple[str, float] = function()
        return made

    return token
