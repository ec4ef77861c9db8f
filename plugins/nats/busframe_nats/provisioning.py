"""Compares what an application needs with what the server has, makes what is missing, widens what is too narrow.

Nothing is ever deleted or made narrower. What the server answers is compared with what was asked: a server drops in
silence what it does not know.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from busframe.errors import TopologyMismatch, TransportError, Unsupported
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe_nats import topology
from busframe_nats.answers import JetStream, Refused
from busframe_nats.settings import Settings
from busframe_nats.topology import SCHEDULES, Config, Names

AT_ONCE = 8
STREAM_EXISTS, CONSUMER_EXISTS = 10058, 10148
MADE_STREAM = ("retention", "subject_transform", "allow_msg_schedules", "discard")
MADE_CONSUMER = ("filter_subject", "filter_subjects", "ack_policy", "max_ack_pending")

Info = dict[str, Any]


class Provisioning:
    """Plans and applies.

    Args:
        jetstream: the server's interface.
        names: of streams and consumers.
        settings: what is created, and how.
        schedules: whether the server can delay messages.
    """

    def __init__(self, jetstream: JetStream, names: Names, settings: Settings, schedules: Callable[[], bool]) -> None:
        self._jetstream = jetstream
        self._names = names
        self._settings = settings
        self._schedules = schedules
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``.

        Raises:
            ConfigurationError: an entity's options hold what is unknown here.
            Unsupported: a subscription asks for messages from before its declaration, or to be temporary.
        """
        found = await asyncio.gather(*map(self._compare, entities))
        return [change for each in found for change in each]

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        conflicts = [change for change in changes if change.action == "conflict"]
        if conflicts:
            raise TopologyMismatch([_conflict_text(change) for change in conflicts])
        for rank in range(3):  # a stream is there before what reads it
            mine = [change for change in changes if _rank(change) == rank]
            done = await asyncio.gather(*map(self._make, mine), return_exceptions=True)
            for error in done:
                if isinstance(error, BaseException):
                    raise error

    # ------------------------------------------------------------------------------------------ comparing

    async def _compare(self, entity: Entity) -> list[Change]:
        address = entity.address
        if isinstance(address, Subscription):
            if address.start != "latest":
                raise Unsupported(f"{address}: start={address.start!r}, but a topic on NATS keeps what is not read yet")
            if address.temporary:
                raise Unsupported(f"{address}: temporary subscriptions are not supported on NATS")
        of_stream = entity
        if isinstance(address, Subscription):
            of_stream = Entity(address.topic, options=entity.options)
        wanted = self._names.stream_config(of_stream, self._settings, schedules=self._schedules())
        async with self._slots:
            info = await self._jetstream.stream(self._names.stream(address))
            if info is None:
                consumers = self._wanted(entity, wanted)
                if isinstance(address, Subscription):
                    consumers = [*self._wanted(of_stream, wanted), *consumers]
                return [Change(address, "create", wanted={"stream": wanted, "consumers": consumers})]
            changes = [] if isinstance(address, Subscription) else _compare_stream(entity, wanted, info["config"])
            if any(change.action == "conflict" for change in changes):
                return changes
            return changes + await self._compare_consumers(entity, info["config"])

    def _wanted(self, entity: Entity, stream: Config) -> list[Config]:
        address = entity.address
        if isinstance(address, Topic):
            has_schedules = topology.has_schedules(stream)
            return [self._names.schedules_config(address)] if has_schedules else []
        partitions = topology.partitions_of(stream) if _by_key(entity) else 0
        return self._names.consumer_configs(entity, self._settings, partitions)

    async def _compare_consumers(self, entity: Entity, stream: Config) -> list[Change]:
        address, name = entity.address, self._names.stream(entity.address)
        if _by_key(entity) and not topology.partitions_of(stream):
            return [Change(address, "conflict", "partitions", self._settings.partitions, 0)]
        wanted = self._wanted(entity, stream)
        if isinstance(address, Queue | Subscription):
            others = self._names.consumers(address, 0 if _by_key(entity) else 1)
            other = await self._jetstream.consumer(name, others[0])
            if other is not None:
                if entity.ordering is not None:
                    found = "key" if others[0].endswith("--p0") else "none"
                    rid = f"nats consumer rm {name} {others[0]}"
                    return [Change(address, "conflict", "ordering", entity.ordering, found, rid)]
                partitions = topology.partitions_of(stream)
                wanted = self._names.consumer_configs(entity, self._settings, partitions)
        infos = await asyncio.gather(*(self._jetstream.consumer(name, config["durable_name"]) for config in wanted))
        missing = [config for config, info in zip(wanted, infos, strict=True) if info is None]
        changes: list[Change] = []
        if missing:
            whole = len(missing) == len(wanted) and isinstance(address, Subscription)
            missing_of = None if whole else "consumers"
            changes.append(Change(address, "create", missing_of, {"consumers": missing}))
        for config, info in zip(wanted, infos, strict=True):
            if info is not None:
                changes += _compare_consumer(address, config, info["config"])
        return list({(change.action, change.property): change for change in changes}.values())

    # ------------------------------------------------------------------------------------------ making

    async def _make(self, change: Change) -> None:
        address, stream = change.address, self._names.stream(change.address)
        wanted = change.wanted if isinstance(change.wanted, Mapping) else {}
        try:
            if change.property == "where" and isinstance(address, Subscription):
                await self._store_where(address, stream)
            elif change.action == "update" and "stream" in wanted:
                await self._jetstream.ask(f"STREAM.UPDATE.{stream}", wanted["stream"])
            elif change.action == "update":
                for config in wanted.get("consumers", ()):
                    await self._update_consumer(stream, config)
            else:
                if "stream" in wanted:
                    await self._make_stream(address, wanted["stream"])
                for config in wanted.get("consumers", ()):
                    await self._make_consumer(address, stream, config)
        except Refused as error:
            raise TransportError(f"{address}: {error}", transient=error.transient) from error

    async def _make_stream(self, address: Address, config: Config) -> None:
        name = config["name"]
        try:
            made = await self._jetstream.ask(f"STREAM.CREATE.{name}", config)
        except Refused as error:
            if error.err_code != STREAM_EXISTS:  # somebody else made it meanwhile: is it the one that is needed?
                raise
            made = await self._jetstream.stream(name) or {"config": {}}
            conflicts = _compare_stream(Entity(address), config, made["config"])
            if any(change.action == "conflict" for change in conflicts):
                raise TopologyMismatch([_conflict_text(change) for change in conflicts]) from error
            return
        _check_made(address, config, made["config"], MADE_STREAM)

    async def _make_consumer(self, address: Address, stream: str, config: Config) -> None:
        name = config["durable_name"]
        body = {"stream_name": stream, "config": {**config, "name": name}, "action": "create"}
        try:
            made = await self._jetstream.ask(f"CONSUMER.CREATE.{stream}.{name}", body)
        except Refused as error:
            if error.err_code != CONSUMER_EXISTS:
                raise
            found = await self._jetstream.consumer(stream, name) or {"config": {}}
            changes = _compare_consumer(address, config, found["config"])
            conflicts = [change for change in changes if change.property != "where"]
            if conflicts:
                raise TopologyMismatch([_conflict_text(change) for change in conflicts]) from error
            if isinstance(address, Subscription):
                await self._store_where(address, stream)
            return
        _check_made(address, config, made["config"], MADE_CONSUMER)

    async def _update_consumer(self, stream: str, config: Config) -> None:
        name = config["durable_name"]
        body = {"stream_name": stream, "config": {**config, "name": name}, "action": "update"}
        await self._jetstream.ask(f"CONSUMER.CREATE.{stream}.{name}", body)

    async def _store_where(self, address: Subscription[Any], stream: str) -> None:
        """Each consumer has the filter; who reads it reads the first one, which is changed first."""
        plain = self._names.consumer(address)
        number = 0
        while True:
            name = plain if number == 0 else f"{plain}--p{number - 1}"
            info = await self._jetstream.consumer(stream, name)
            if info is None:
                if number:
                    return
            else:
                config = info["config"]
                metadata = {**(config.get("metadata") or {}), topology.WHERE: topology.where_text(address.where)}
                own = {key: value for key, value in metadata.items() if not key.startswith("_nats.")}
                await self._update_consumer(stream, {**config, "durable_name": name, "metadata": own})
                if not number:
                    return
            number += 1


def _by_key(entity: Entity) -> bool:
    """Whether the consumers are those of partitions: its handlers ask for order, or nobody here and its options do."""
    if not isinstance(entity.address, Queue | Subscription):
        return False
    return entity.ordering == "key" or (entity.ordering is None and "partitions" in entity.options)


def _rank(change: Change) -> int:
    if isinstance(change.address, Topic):
        return 0
    return 1 if isinstance(change.address, DeadLetters) else 2


def _compare_stream(entity: Entity, wanted: Config, found: Config) -> list[Change]:
    address = entity.address
    command = f"nats stream edit {wanted['name']}"
    changes: list[Change] = []

    def conflict(what: str, asked: object, is_there: object, cure: str = command) -> None:
        changes.append(Change(address, "conflict", what, asked, is_there, cure))

    if found.get("retention") != wanted["retention"]:
        conflict("retention", wanted["retention"], found.get("retention"), "use another name, or delete the stream")
        return changes
    partitions = topology.read_options(entity).get("partitions")
    if not isinstance(address, DeadLetters) and partitions and partitions != topology.partitions_of(found):
        conflict("partitions", partitions, topology.partitions_of(found), "use another name")
    limits = [name for name in ("max_bytes", "max_msgs", "max_msgs_per_subject") if found.get(name, -1) > 0]
    if limits and found.get("discard") != "new":
        conflict("discard", "new", f"{found.get('discard')}, with {', '.join(limits)}", f"{command} --discard=new")
    if found.get("max_age"):
        conflict("max_age", 0, found["max_age"], f"{command} --max-age=0")
    if changes:
        return changes
    missing = [subject for subject in wanted["subjects"] if subject not in found.get("subjects", ())]
    schedules = wanted.get("allow_msg_schedules") and not found.get("allow_msg_schedules")
    if schedules and limits:
        schedules, missing = False, [subject for subject in missing if ".later." not in subject]
    if missing or schedules:
        wider = {**found, "subjects": [*found.get("subjects", ()), *missing]}
        if schedules:
            wider |= {"allow_msg_schedules": True, "discard": "old"}
        is_there = {name: found.get(name) for name in ("subjects", "allow_msg_schedules")}
        changes.append(Change(address, "update", "stream", {"stream": wider}, is_there))
    return changes


def _compare_consumer(address: Address, wanted: Config, found: Config) -> list[Change]:
    name = wanted["durable_name"]
    command = f"nats consumer edit, of {name}"
    for what, asked in (("ack_policy", "explicit"), ("max_deliver", -1), ("deliver_subject", None)):
        if found.get(what) != asked:
            # With a limit of its own the server gives a message up, and keeps it for ever where nobody gets it.
            return [Change(address, "conflict", what, asked, found.get(what), command)]
    if name == SCHEDULES:
        return []
    pending = wanted["max_ack_pending"]
    if pending == 1 and found.get("max_ack_pending") != 1:
        return [Change(address, "conflict", "max_ack_pending", 1, found.get("max_ack_pending"), command)]
    changes: list[Change] = []
    if _filters(wanted) - _filters(found) or (pending == -1 and found.get("max_ack_pending", -1) > 0):
        both = sorted(_filters(wanted) | _filters(found))
        plain = {key: value for key, value in found.items() if key not in ("filter_subject", "filter_subjects")}
        filters = {"filter_subject": both[0]} if len(both) == 1 else {"filter_subjects": both}
        wider = {**plain, **filters, "max_ack_pending": pending, "durable_name": name}
        is_there = {"filters": sorted(_filters(found)), "max_ack_pending": found.get("max_ack_pending")}
        changes.append(Change(address, "update", "consumers", {"consumers": [wider]}, is_there))
    if isinstance(address, Subscription):
        stored = (found.get("metadata") or {}).get(topology.WHERE)
        if stored != topology.where_text(address.where):
            changes.append(Change(address, "update", "where", dict(address.where), topology.read_where(found)))
    return changes


def _filters(config: Config) -> set[str]:
    several = config.get("filter_subjects") or [config.get("filter_subject")]
    return {subject for subject in several if subject}


def _check_made(address: Address, asked: Config, made: Config, what: Sequence[str]) -> None:
    for name in what:
        if name in asked and made.get(name) != asked[name]:
            raise TopologyMismatch(
                f"{address}: the server made it with {name} = {made.get(name)!r} where {asked[name]!r} was asked: "
                "it is too old for that, or has limits of its own"
            )


def _conflict_text(change: Change) -> str:
    cure = change.command or "delete what is there when it is empty, or use another name"
    return (
        f"{change.address}: {change.property} is {change.found!r} on the server and {change.wanted!r} is needed: {cure}"
    )
