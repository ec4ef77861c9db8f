"""What queues, topics, subscriptions, dead letters and delays are on Kafka: names, partitions, settings. Pure.

One table says it all::

    Queue("q")          topic  q                      group q
    Topic("t")          topic  t
    subscription s      group  t--s, on topic t
    of each source g    topic  g--retry               group g--retry: copies that only this source gets
                        topic  g--dead                group g--dead
    of each prefix      topics bf--wait-5s … -12h     group bf--wait: the ladder of delays
                        topic  bf--wait-last          the same group: the last seconds of a delay
                        topic  bf--subscriptions      the registry of subscriptions
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from busframe.errors import ConfigurationError
from busframe.logic.names import physical_name
from busframe.model.destination import Address, DeadLetters, Queue, SourceAddress, Subscription
from busframe.model.entity import Entity
from busframe_kafka.ladder import wait_topics
from busframe_kafka.settings import Settings

WAIT_PARTITIONS = 4
RETRY_PARTITIONS = 4

OPTIONS = frozenset({"partitions", "replication_factor", "min_insync_replicas", "retention_s"})
"""What ``Queue(…, options={"kafka": {…}})`` may say; settings of the same names are the defaults."""

_FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_COMPACTED = {"cleanup.policy": "compact", "retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it is wanted.

    Attributes:
        name: the broker's.
        partitions: how many, when it is created.
        replication_factor: when it is created; None: the server's default.
        config: what is said of it; all else is the server's default.
    """

    name: str
    partitions: int
    replication_factor: int | None
    config: Mapping[str, str] = field(default_factory=dict)


class Names:
    """The broker's names of one prefix.

    Args:
        prefix: before every name.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.registry = f"{prefix}bf--subscriptions"

    def topic(self, address: Address) -> str:
        """Where what is published to an address is stored; of a subscription, where its topic's messages are."""
        return physical_name(address.topic if isinstance(address, Subscription) else address, self.prefix)

    def group(self, source: SourceAddress) -> str:
        """The consumer group of a source."""
        return physical_name(source, self.prefix)

    def retry(self, source: Queue[object] | Subscription[object]) -> str:
        """The topic that only this source's group reads."""
        return f"{self.group(source)}--retry"

    def dead(self, source: SourceAddress) -> str:
        """The topic of a source's dead letters."""
        return self.group(source.dead_letters)


def spec_of(entity: Entity, names: Names, settings: Settings) -> TopicSpec | None:
    """The topic that an entity is; None: a subscription is none.

    Raises:
        ConfigurationError: the options hold what is unknown here.
    """
    address = entity.address
    if isinstance(address, Subscription):
        return None
    said = options_of(entity, settings)
    if isinstance(address, DeadLetters):
        return _spec(names.topic(address), 1, said, _COMPACTED)
    if isinstance(address, Queue):
        return _spec(names.topic(address), said.partitions, said, _FOREVER)
    retention = -1 if said.retention_s is None else round(said.retention_s * 1000)
    return _spec(
        names.topic(address), said.partitions, said, {"cleanup.policy": "delete", "retention.ms": f"{retention}"}
    )


def retry_spec(
    source: Queue[object] | Subscription[object], entity: Entity, names: Names, settings: Settings
) -> TopicSpec:
    """The topic of copies that only one source gets."""
    return _spec(names.retry(source), RETRY_PARTITIONS, options_of(entity, settings), _FOREVER)


def wait_specs(names: Names, settings: Settings) -> list[TopicSpec]:
    """The topics of the ladder."""
    said = options_of(None, settings)
    return [_spec(name, WAIT_PARTITIONS, said, _FOREVER) for name in wait_topics(names.prefix)]


def registry_spec(names: Names, settings: Settings) -> TopicSpec:
    """The topic of the registry: one partition, so that all see its records in one order."""
    return _spec(names.registry, 1, options_of(None, settings), _COMPACTED)


@dataclass(frozen=True, slots=True)
class Said:
    """What settings and options say together."""

    partitions: int
    replication_factor: int | None
    min_insync_replicas: int | None
    retention_s: float | None


def options_of(entity: Entity | None, settings: Settings) -> Said:
    """What an entity's options say, with the settings for what they leave out.

    Raises:
        ConfigurationError: the options hold what is unknown here, or is no number.
    """
    options: Mapping[str, object] = entity.options if entity is not None else {}
    unknown = sorted(set(options) - OPTIONS)
    problems = [f"kafka has no option {name!r}; it has {', '.join(sorted(OPTIONS))}" for name in unknown]
    for name in sorted(OPTIONS & set(options)):
        value = options[name]
        is_number = isinstance(value, (int, float) if name == "retention_s" else int) and not isinstance(value, bool)
        if not (is_number and value > 0) and not (value is None and name != "partitions"):  # type: ignore[operator]
            problems.append(f"{name} is {value!r} and must be a number above 0")
    if entity is not None and isinstance(entity.address, Queue) and "retention_s" in options:
        problems.append("retention_s is of topics: a queue keeps its messages until they are handled")
    if problems and entity is not None:
        raise ConfigurationError([f"{entity.address}: {problem}" for problem in problems])
    said: dict[str, object] = {
        "partitions": settings.partitions,
        "replication_factor": settings.replication_factor,
        "min_insync_replicas": settings.min_insync_replicas,
        "retention_s": settings.topic_retention_s,
        **options,
    }
    return Said(**said)  # type: ignore[arg-type]


def _spec(name: str, partitions: int, said: Said, config: Mapping[str, str]) -> TopicSpec:
    full = dict(config)
    if said.min_insync_replicas is not None:
        full["min.insync.replicas"] = str(said.min_insync_replicas)
    return TopicSpec(name, partitions, said.replication_factor, full)
