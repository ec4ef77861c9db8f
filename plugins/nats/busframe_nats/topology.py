"""What queues, topics, subscriptions and dead letters are on JetStream: streams, consumers, subjects. Pure.

============================ ================================== ==================================================
what                         stream                             consumers (durable, pulled)
============================ ================================== ==================================================
``Queue("q")``               ``bf-q``, work queue               ``workers``, or ``workers--p0`` … with order
``Topic("t")``               ``bf-t``, interest                 ``--schedules``: nobody reads it, see below
its subscription ``s``                                          ``s``, or ``s--p0`` … with order
dead letters of either       ``bf-q--dead``, work queue         ``workers``
============================ ================================== ==================================================

Messages go to ``bf.q.<q>.<bucket>``, ``bf.t.<t>.all.<bucket>``, for one subscription ``bf.t.<t>.to-<s>.<bucket>``, for
dead letters ``bf.dead.<source>.<bucket>``. The bucket is made of the message's key or, without one, of its id, and the
stream's subject transform puts the partition of the bucket before it, so that who publishes need not know how many
there are. Delayed messages wait at ``bf.later.<name>.<unique>`` in the stream that they are for.

An interest stream keeps only what some consumer is to read, so that one that nobody reads holds the delayed messages of
a topic until the server itself moves them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from busframe.errors import ConfigurationError
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic, Where
from busframe.model.entity import Entity
from busframe_nats.settings import Settings

SECOND = 1_000_000_000
"""The server counts times in nanoseconds."""

BUCKETS, SPREAD = 256, 16
"""How many buckets there are for keys, and for messages without one.

As few as partitions can be, and as let those share the work: each is a subject, and with 1024 of them the server takes
three times as long to find the next message of a consumer.
"""
MAX_DELAY_S = 365 * 24 * 3600.0
WORKERS, SCHEDULES = "workers", "--schedules"
WHERE = "bf-where"
MAX_WAITING = 8192
"""Requests for messages that may wait at one consumer: a few for each worker of it."""

OPTIONS = frozenset({"partitions", "max_bytes"})

Config = Mapping[str, Any]


def token(name: str) -> str:
    """A name as one part of a subject, and as a name of a stream or consumer; these have no dots."""
    return name.replace(".", "=")


def bucket(key: str | None, id: str) -> str:
    """The part of the subject that the server chooses the partition by: of one key always the same."""
    text, count = (id, SPREAD) if key is None else (key, BUCKETS)
    return str(crc32(text.encode("utf-8", "surrogatepass")) % count)


@dataclass(frozen=True, slots=True)
class Names:
    """The server's names of addresses.

    Args:
        subjects: the first part of all names.
        name: what the core calls an address on a broker.
    """

    subjects: str
    name: Callable[[Address], str]

    def source(self, address: Address) -> str:
        """What the stream of an address is called, without the first part."""
        return token(self.name(address.topic if isinstance(address, Subscription) else address))

    def stream(self, address: Address) -> str:
        """The stream that holds its messages."""
        return f"{self.subjects}-{self.source(address)}"

    def consumer(self, address: Address) -> str:
        """The consumer of a source; with order, what its consumers' names begin with."""
        return token(address.name) if isinstance(address, Subscription) else WORKERS

    def consumers(self, address: Address, partitions: int) -> list[str]:
        """All consumers of a source: one, or one for each partition (0: it has no order)."""
        name = self.consumer(address)
        return [f"{name}--p{number}" for number in range(partitions)] if partitions else [name]

    def to(self, address: Address) -> str:
        """What subjects of messages for an address begin with; a bucket follows."""
        source = self.source(address)
        match address:
            case Topic():
                return f"{self.subjects}.t.{source}.all"
            case Subscription():
                return f"{self.subjects}.t.{source}.to-{token(address.name)}"
            case DeadLetters():
                return f"{self.subjects}.dead.{source}"
            case Queue():
                return f"{self.subjects}.q.{source}"

    def later(self, address: Address) -> str:
        """What subjects of delayed messages begin with; something unique follows."""
        return f"{self.subjects}.later.{self.source(address)}"

    # ------------------------------------------------------------------------------------------ streams

    def stream_config(self, entity: Entity, settings: Settings, *, schedules: bool) -> Config:
        """The stream of a queue, a topic or dead letters.

        Args:
            entity: what it is for.
            settings: what it is created with.
            schedules: whether the server can delay messages.

        Raises:
            ConfigurationError: the options hold what is unknown here.
        """
        address = entity.address
        options = read_options(entity)
        max_bytes = options.get("max_bytes", settings.stream_max_bytes)
        dead = isinstance(address, DeadLetters)
        config: dict[str, Any] = {
            "name": self.stream(address),
            "subjects": [f"{self.to(address)}.*"],
            "retention": "workqueue",
            "storage": settings.storage,
            "num_replicas": settings.replicas,
            "duplicate_window": int(settings.duplicate_window_s * SECOND),
            "discard": "new",
            "max_bytes": -1,
        }
        if dead:
            return config
        partition = f"{{{{partition({options.get('partitions', settings.partitions)},%d)}}}}.{{{{wildcard(%d)}}}}"
        if isinstance(address, Topic):
            root = f"{self.subjects}.t.{self.source(address)}"
            config["retention"] = "interest"
            config["subjects"] = [f"{root}.*.*"]
            config["subject_transform"] = {
                "src": f"{root}.*.*",
                "dest": f"{root}.{{{{wildcard(1)}}}}.{partition % (2, 2)}",
            }
        else:
            root = self.to(address)
            config["subject_transform"] = {"src": f"{root}.*", "dest": f"{root}.{partition % (1, 1)}"}
        config["max_bytes"] = -1 if max_bytes is None else max_bytes
        if schedules and max_bytes is None:
            # The server refuses schedules together with discard new (10052); without a limit nothing is discarded.
            config["discard"] = "old"
            config["allow_msg_schedules"] = True
            config["subjects"].append(f"{self.later(address)}.*")
        return config

    def schedules_config(self, address: Topic[Any]) -> Config:
        """The consumer that nobody reads."""
        return {
            "durable_name": SCHEDULES,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "max_deliver": -1,
            "filter_subject": f"{self.later(address)}.*",
        }

    # ------------------------------------------------------------------------------------------ consumers

    def consumer_configs(self, entity: Entity, settings: Settings, partitions: int) -> list[Config]:
        """The consumers of a source.

        Args:
            entity: the source.
            settings: what they are created with.
            partitions: of its stream, where its handlers ask for order, else 0.
        """
        address = entity.address
        assert not isinstance(address, Topic), "a topic has none"
        roots, policy, metadata = [self.to(address)], "all", {}
        if isinstance(address, Subscription):
            roots.insert(0, self.to(address.topic))
            policy, metadata = "new", {WHERE: where_text(address.where)}
        configs: list[Config] = []
        for number, name in enumerate(self.consumers(address, partitions)):
            ends = f".{number}.*" if partitions else ".>"
            filters = [root + ends for root in roots]
            configs.append(
                {
                    "durable_name": name,
                    "ack_policy": "explicit",
                    "deliver_policy": policy,
                    "ack_wait": int(settings.ack_wait_s * SECOND),
                    "max_deliver": -1,  # who gives up is the core
                    # Delayed hand-backs count as pending, and 1000 of them would stop a consumer that has the default.
                    "max_ack_pending": 1 if partitions else -1,
                    "max_waiting": MAX_WAITING,
                    **({"filter_subjects": filters} if len(filters) > 1 else {"filter_subject": filters[0]}),
                    "metadata": metadata,
                }
            )
        return configs


def read_options(entity: Entity) -> Mapping[str, int]:
    """What the application says to this transport alone.

    Raises:
        ConfigurationError: the options hold what is unknown here.
    """
    options = entity.options
    problems = [
        f"{entity.address}: nats has no option {name!r}; it has {', '.join(sorted(OPTIONS))}"
        for name in sorted(set(options) - OPTIONS)
    ]
    read: dict[str, int] = {}
    for name in sorted(OPTIONS & set(options)):
        value = options[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problems.append(f"{entity.address}: the option {name!r} must be a whole number from 1 on")
        else:
            read[name] = value
    if read.get("partitions", 1) > 256:
        problems.append(f"{entity.address}: at most 256 partitions")
    if problems:
        raise ConfigurationError(problems)
    return read


def partitions_of(config: Config) -> int:
    """The number of partitions of a stream; 0: it has none."""
    transform = config.get("subject_transform") or {}
    _, _, rest = str(transform.get("dest", "")).partition("{{partition(")
    count = rest.partition(",")[0]
    return int(count) if count.isdigit() else 0


def has_schedules(config: Config) -> bool:
    """Whether a stream can hold delayed messages."""
    return bool(config.get("allow_msg_schedules"))


def where_text(where: Where) -> str:
    """A filter as it is stored with its consumer."""
    return json.dumps({name: sorted(_values(values)) for name, values in sorted(where.items())})


def read_where(config: Config) -> Where | None:
    """The filter that is stored with a consumer; None: there is none, or nobody can read it."""
    text = (config.get("metadata") or {}).get(WHERE)
    if text is None:
        return None
    try:
        stored = json.loads(text)
        return {str(name): tuple(map(str, values)) for name, values in stored.items()}
    except (ValueError, AttributeError, TypeError):
        return None


def _values(values: Any) -> set[str]:
    return {values} if isinstance(values, str) else set(values)
