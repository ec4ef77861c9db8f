"""Compares what an application needs with what the cluster has, and makes what is missing. Nothing is ever deleted.

What must exist for a source is more than one topic (see ``topology``); each topic that is missing, and each setting
that differs, is a ``Change`` of the entity it belongs to. Retention is only ever made longer in place: a shorter one
would delete messages.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from busframe.errors import TopologyMismatch
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe_kafka import topology
from busframe_kafka.admin import Admin, FoundConfig, FoundTopic
from busframe_kafka.client import EARLIEST, LATEST, at_time
from busframe_kafka.registry import Declared, Entries, Kind, Registry
from busframe_kafka.settings import Settings
from busframe_kafka.topology import Names, TopicSpec

RETRY, LADDER, REGISTRY, DECLARED = "retry topic", "delay topics", "registry", "registration"
WHERE, ORDERING, PARTITIONS, KIND = "where", "ordering", "partitions", "kind"

SEEN_S = 15.0
"""How long to wait until all servers know of a topic that was created."""


@dataclass(frozen=True, slots=True)
class Need:
    """A topic that an entity needs; ``part``: what of it, or None for the entity itself."""

    entity: Entity
    part: str | None
    spec: TopicSpec


class Provisioning:
    """Plans and applies.

    Args:
        admin: asks and tells the cluster.
        registry: what has been declared.
        names: of topics and groups.
        settings: of what is created.
    """

    def __init__(self, admin: Admin, registry: Registry, names: Names, settings: Settings) -> None:
        self._admin = admin
        self._registry = registry
        self._names = names
        self._settings = settings

    async def make_ladder(self) -> None:
        """Create the topics of delays, those that are missing: to use the others takes no right to create any."""
        specs = topology.wait_specs(self._names, self._settings)
        found = await self._admin.topics([spec.name for spec in specs])
        await self._admin.create([spec for spec in specs if spec.name not in found])

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``.

        Raises:
            ConfigurationError: an entity's options hold what is unknown here.
        """
        needs = list(self._needs(entities))
        found = await self._admin.topics(need.spec.name for need in needs)
        compared = [need for need in needs if need.part is None and need.spec.name in found]
        configs = await self._admin.configs(need.spec.name for need in compared)
        changes = [
            Change(need.entity.address, "create", need.part, need.spec, command=_create_command(need.spec))
            for need in needs
            if need.spec.name not in found
        ]
        for need in compared:
            changes += _compare_topic(need, found[need.spec.name], configs.get(need.spec.name, {}))
        entries = await self._registry.catch_up()
        for entity in entities:
            changes += self._compare_declared(entity, found, entries)
        return changes

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        _refuse(change for change in changes if change.action == "conflict")
        await self._create([change.wanted for change in changes if isinstance(change.wanted, TopicSpec)])
        for change in changes:
            if change.action == "update" and change.property not in (WHERE, None):
                await self._admin.alter(self._names.topic(change.address), {str(change.property): str(change.wanted)})
        await self._declare([change for change in changes if isinstance(change.wanted, Wanted)])
        await self._registry.store_filters(
            {
                self._names.group(change.address): _filter(change.address)
                for change in changes
                if isinstance(change.address, Subscription) and change.property in (WHERE, DECLARED)
            }
        )

    # ------------------------------------------------------------------------------------------ comparing

    def _needs(self, entities: Sequence[Entity]) -> Iterator[Need]:
        names, settings = self._names, self._settings
        seen: set[str] = set()

        def new(need: Need) -> Iterator[Need]:
            if need.spec.name not in seen:
                seen.add(need.spec.name)
                yield need

        for entity in entities:
            address = entity.address
            spec = topology.spec_of(entity, names, settings)
            if spec is not None:
                yield from new(Need(entity, None, spec))
            if isinstance(address, Subscription):
                topic = Entity(address.topic, options=entity.options)
                spec = topology.spec_of(topic, names, settings)
                assert spec is not None, "a topic is one"
                yield from new(Need(topic, None, spec))
            if isinstance(address, Queue | Subscription):
                yield from new(Need(entity, RETRY, topology.retry_spec(address, entity, names, settings)))
                yield from new(Need(entity, REGISTRY, topology.registry_spec(names, settings)))
                if entity.longest_delay_s > 0:
                    for spec in topology.wait_specs(names, settings):
                        yield from new(Need(entity, LADDER, spec))

    def _compare_declared(self, entity: Entity, found: Mapping[str, FoundTopic], entries: Entries) -> Iterator[Change]:
        """What the registry says of a queue, a topic or a subscription."""
        address, name = entity.address, self._names.topic(entity.address)
        if isinstance(address, DeadLetters):
            return
        group = name if isinstance(address, Topic) else self._names.group(address)
        wanted = Wanted(group, name, _kind(address), entity.ordering or "none")
        declared = entries.declared(group, found[name].topic_id) if name in found else None
        if declared is None:
            # Foreign queues and topics may be used as they are; a subscription begins at its declaration.
            action = "create" if isinstance(address, Subscription) else "unknown"
            yield Change(address, action, DECLARED, wanted, None)  # type: ignore[arg-type]
            return
        if declared.kind != wanted.kind:
            yield Change(address, "conflict", KIND, wanted.kind, declared.kind)
        elif entity.ordering is not None and declared.ordering != entity.ordering:
            yield Change(address, "conflict", ORDERING, entity.ordering, declared.ordering)
        if isinstance(address, Subscription):
            stored = entries.where(group)
            if stored is None or dict(stored) != _filter(address):
                yield Change(address, "update", WHERE, _filter(address), None if stored is None else dict(stored))

    # ------------------------------------------------------------------------------------------ making

    async def _create(self, specs: Sequence[TopicSpec]) -> None:
        """Create topics, the registry first, and note which are ours: in that order, so that none is noted wrongly."""
        if not specs:
            return
        registry = topology.registry_spec(self._names, self._settings)
        made = await self._admin.create([registry, *(spec for spec in specs if spec.name != registry.name)])
        await self._seen([spec.name for spec in specs])
        await self._registry.note_made(sorted(made - {registry.name}))

    async def _seen(self, names: Sequence[str]) -> Mapping[str, FoundTopic]:
        """Wait until the servers know topics that were just created."""
        async with asyncio.timeout(SEEN_S):
            while True:
                found = await self._admin.topics(names)
                if all(name in found for name in names):
                    return found
                await asyncio.sleep(0.05)

    async def _declare(self, changes: Sequence[Change]) -> None:
        """Write down what is new, and let new subscriptions begin."""
        wanted = [(change.address, change.wanted) for change in changes if isinstance(change.wanted, Wanted)]
        if not wanted:
            return
        found = await self._seen(list(dict.fromkeys(each.topic for _, each in wanted)))
        declared: dict[str, Declared] = {}
        for address, each in wanted:
            topic = found[each.topic]
            positions: dict[int, int] = {}
            if isinstance(address, Subscription):
                places = [(each.topic, number) for number in range(topic.partitions)]
                offsets = await self._begin(address, places)
                positions = {number: offset for (_, number), offset in offsets.items()}
            declared[each.name] = Declared(each.kind, topic.topic_id, each.ordering, positions)
        counts = await self._registry.declare(declared)
        conflicts = [
            Change(address, "conflict", prop, mine, theirs)
            for address, each in wanted
            for prop, mine, theirs in (
                (KIND, each.kind, counts[each.name].kind),
                (ORDERING, each.ordering, counts[each.name].ordering),
            )
            if mine != theirs
        ]
        _refuse(iter(conflicts))
        for address, each in wanted:
            if isinstance(address, Subscription):
                await self._commit_missing(each.name, each.topic, counts[each.name].positions)

    async def _begin(
        self, subscription: Subscription[object], places: list[tuple[str, int]]
    ) -> dict[tuple[str, int], int]:
        start = subscription.start
        spec = EARLIEST if start == "earliest" else LATEST
        if isinstance(start, datetime):
            spec = at_time(start.timestamp())
        return await self._admin.offsets(places, spec)

    async def _commit_missing(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Let a group begin where it was declared to. Where it has begun, its own offsets stay."""
        committed = await self._admin.committed(group)
        missing = {(topic, number): offset for number, offset in positions.items() if (topic, number) not in committed}
        await self._admin.commit(group, missing)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be written down of a name."""

    name: str
    topic: str
    kind: Kind
    ordering: Literal["none", "key"]


def _kind(address: Address) -> Kind:
    return "queue" if isinstance(address, Queue) else "topic" if isinstance(address, Topic) else "subscription"


def _filter(subscription: Subscription[object]) -> dict[str, tuple[str, ...]]:
    return {header: tuple(values) for header, values in subscription.where.items()}


def _compare_topic(need: Need, found: FoundTopic, config: Mapping[str, FoundConfig]) -> Iterator[Change]:
    """How a topic differs: only from what is needed or stated; what the server's defaults are is the operator's."""
    address, spec = need.entity.address, need.spec
    if "partitions" in need.entity.options and found.partitions != spec.partitions:
        yield Change(address, "conflict", PARTITIONS, spec.partitions, found.partitions)
    for name, wanted in spec.config.items():
        value = config[name].value if name in config else None
        if value is None or value == wanted:
            continue
        stated = name == "min.insync.replicas" or not isinstance(address, Topic) or "retention_s" in need.entity.options
        if name == "cleanup.policy":
            # A queue that is compacted loses messages; dead letters that are not would keep what was removed.
            safe = isinstance(address, DeadLetters)
            yield Change(
                address, "update" if safe else "conflict", name, wanted, value, _alter_command(spec.name, name, wanted)
            )
        elif stated and _is_more(wanted, value):
            yield Change(address, "update", name, wanted, value, _alter_command(spec.name, name, wanted))
        elif stated and name == "retention.ms":
            yield Change(address, "conflict", name, wanted, value, _alter_command(spec.name, name, wanted))


def _is_more(wanted: str, found: str) -> bool:
    """Whether a limit is wider; -1 is none at all."""
    return wanted == "-1" or (found != "-1" and int(wanted) > int(found))


def _refuse(conflicts: Iterator[Change]) -> None:
    said = [
        f"{change.address}: its {change.property} is {change.found!r} and {change.wanted!r} is needed, which cannot be "
        f"changed in place: use another name{f', or: {change.command}' if change.command else ''}"
        for change in conflicts
    ]
    if said:
        raise TopologyMismatch(said)


def _create_command(spec: TopicSpec) -> str:
    config = " ".join(f"--config {name}={value}" for name, value in spec.config.items())
    copies = f" --replication-factor {spec.replication_factor}" if spec.replication_factor else ""
    return f"kafka-topics.sh --create --topic {spec.name} --partitions {spec.partitions}{copies} {config}"


def _alter_command(topic: str, name: str, value: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {name}={value}"
