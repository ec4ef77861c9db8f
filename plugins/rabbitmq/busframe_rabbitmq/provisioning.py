"""Compares what an application needs with what the server has, and makes what is missing.

AMQP lets a client see little: whether a queue exists (a passive declaration), and whether its arguments are the ones it
would give (a declaration again, refused with 406 and the name of the argument). Each refusal closes the channel it was
asked on, so each question has a throw-away channel. Bindings and policies are seen where there is a management URL.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from busframe.errors import AccessDenied, ConfigurationError, TopologyMismatch, TransportError
from busframe.model.destination import Address, DeadLetters, Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe.spi.transport import Host
from busframe_rabbitmq import topology
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.delays import Delays
from busframe_rabbitmq.link import Link
from busframe_rabbitmq.policies import Purpose, overriding

if TYPE_CHECKING:
    from busframe_rabbitmq.management import Listed, Management

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Questions at a time; each has a channel."""

BINDINGS, ARGUMENTS, DELAYS, TYPE = "bindings", "arguments", "delays", "type"


class Provisioning:
    """Plans and applies.

    Args:
        link: the consuming connection.
        delays: the cascade, a part of each source with delays.
        host: names.
        counts: whether the server counts looks at dead letters (see ``topology.dead_arguments``).
        management: for bindings and policies; None: they are unknown.
        hold_max_s: how long a handler may hold a message, in seconds.
    """

    def __init__(
        self,
        link: Link,
        delays: Delays,
        host: Host,
        counts: Callable[[], bool],
        management: "Management | None",
        hold_max_s: float,
    ) -> None:
        self._link = link
        self._delays = delays
        self._name = host.name
        self._counts = counts
        self._management = management
        self._hold_max_s = hold_max_s
        self._unlimited: set[str] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``.

        Raises:
            ConfigurationError: an entity's options hold what is unknown here, or a filter is too wide for bindings.
        """
        wanted = [self._wanted(entity) for entity in entities]
        found = await asyncio.gather(*map(self._compare, entities, wanted))
        changes = [change for each in found for change in each]
        delayed = next(
            (entity for entity in entities if topology.is_handled(entity) and entity.longest_delay_s > 0), None
        )
        changes += await self._look_closer([entity.address for entity in entities], changes, delayed)
        return changes + await self._compare_delays(entities, needed=delayed is not None)

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        conflicts = [_conflict_text(change) for change in changes if change.action == "conflict"]
        if conflicts:
            raise TopologyMismatch(conflicts)
        for change in sorted(changes, key=_rank):
            try:
                await self._make(change)
            except ChannelRefused as error:
                raise self._refused(change.address, error) from error
        await self._connect_delays(changes)

    async def check_looks(self, letters: DeadLetters) -> None:
        """See that the server, which from 4.0 on counts looks, drops no dead letters because of them.

        Where only their existence can be seen, that is all that is known, and it passes.

        Raises:
            TransportError: it would (not transient), or it cannot be asked.
        """
        name = self._name(letters)
        if not self._counts() or name in self._unlimited:
            return
        entity = Entity(letters)
        changes = await self._compare(entity, self._wanted(entity))
        for change in changes:
            if change.property == topology.LIMIT and not await self._is_unlimited(name):
                raise TransportError(
                    f"{letters} can be handled, and not looked at: {change.property} is {change.found}; "
                    f"{change.command}, and say management_url so that the policy can be seen",
                    transient=False,
                )
        if not changes:
            self._unlimited.add(name)

    async def _is_unlimited(self, queue: str) -> bool:
        """Whether a policy says so."""
        if self._management is None:
            return False
        policies = await self._management.policies()
        limits = [value for _, key, value in policies.of(queue) if key == "delivery-limit"]
        return bool(limits) and all(isinstance(limit, int) and limit < 0 for limit in limits)

    # ------------------------------------------------------------------------------------------ comparing

    def _wanted(self, entity: Entity) -> Mapping[str, object]:
        if isinstance(entity.address, Topic):
            return {}
        return topology.wanted_arguments(entity, self._name, counts=self._counts())

    async def _compare(self, entity: Entity, wanted: Mapping[str, object]) -> list[Change]:
        address, name = entity.address, self._name(entity.address)
        async with self._slots:
            if isinstance(address, Topic):
                return await self._compare_topic(address, name)
            changes: list[Change] = []
            if await self._refusal(lambda channel: channel.declare_queue(name, passive=True), 404):
                changes.append(Change(address, "create", wanted=dict(wanted)))
            else:
                changes += await self._compare_arguments(entity, name, wanted)
            return changes

    async def _look_closer(
        self, addresses: Sequence[Address], changes: Sequence[Change], delayed: Entity | None
    ) -> list[Change]:
        """What policies do to each source, and the bindings of subscriptions that exist."""
        made = {change.address for change in changes if change.property is None}
        bound = [each for each in addresses if isinstance(each, Subscription) and each not in made]
        if self._management is None:
            return [_unknown_bindings(each, "over AMQP") for each in bound]
        try:
            policies = await self._management.policies()
            found = [await self._management.bindings(self._name(each.topic), self._name(each)) for each in bound]
        except TransportError as error:
            log.warning("bindings and policies are not known: %s", error)
            return [_unknown_bindings(each, "for now") for each in bound]
        closer = [
            change for each, listed in zip(bound, found, strict=True) for change in _compare_bindings(each, listed)
        ]
        queues: list[tuple[Address, str, Purpose]] = [
            (each, self._name(each), _purpose(each)) for each in addresses if not isinstance(each, Topic)
        ]
        if delayed is not None:
            targets = [self._name(each) for each in addresses if not isinstance(each, DeadLetters)]
            queues.extend((delayed.address, name, "delay") for name in self._delays.queues(targets))
        overridden = (overriding(*queue, policies, self._hold_max_s) for queue in queues)
        return closer + list(dict.fromkeys(change for each in overridden for change in each))

    async def _compare_topic(self, address: Topic[object], name: str) -> list[Change]:
        kind = topology.EXCHANGE_TYPE
        if await self._refusal(lambda channel: channel.declare_exchange(name, kind, passive=True), 404):
            return [Change(address, "create", wanted={TYPE: kind})]
        refused = await self._refusal(lambda channel: channel.declare_exchange(name, kind), 406, 403)
        return [] if refused is None or refused.code == 403 else [_conflict(address, refused)]

    async def _compare_delays(self, entities: Sequence[Entity], *, needed: bool) -> list[Change]:
        """The way of what is delayed to each target; who needs none gets its own as well, because others may publish.

        Of a way that exists the bindings are not known, so each start makes it again.
        """
        made = await self._delays.is_made()
        if not made and not needed:
            return []

        async def compare(entity: Entity) -> Change:
            if topology.is_handled(entity) and entity.longest_delay_s > 0:
                async with self._slots:
                    if not made or not await self._delays.has_door(self._name(entity.address)):
                        return Change(entity.address, "create", DELAYS, "the delay queues of this prefix, and its own")
            return Change(entity.address, "unknown", DELAYS, None, "existence only: bindings cannot be read over AMQP")

        return await asyncio.gather(*(compare(each) for each in entities if not isinstance(each.address, DeadLetters)))

    async def _compare_arguments(self, entity: Entity, name: str, wanted: Mapping[str, object]) -> list[Change]:
        refused = await self._refusal(lambda channel: channel.declare_queue(name, wanted), 406, 403)
        if refused is None:
            return []
        if refused.code == 403:
            # Without the right to configure, the server does not say more than that it exists.
            return [Change(entity.address, "unknown", ARGUMENTS, dict(wanted), "existence only: no right to configure")]
        conflict = _conflict(entity.address, refused)
        if conflict.property == topology.LIMIT and isinstance(entity.address, DeadLetters):
            older = topology.dead_arguments(counts=False)
            refused = await self._refusal(lambda channel: channel.declare_queue(name, older), 406)
            return [_limited(entity.address, name) if refused is None else conflict]
        if conflict.property == topology.SINGLE_ACTIVE and not topology.is_handled(entity):
            # Whether it is ordered is said by the program that handles it; who only publishes need not know.
            other = {**wanted, topology.SINGLE_ACTIVE: True}
            refused = await self._refusal(lambda channel: channel.declare_queue(name, other), 406)
            return [] if refused is None else [_conflict(entity.address, refused)]
        return [conflict]

    async def _refusal(self, ask: Callable[[Channel], object], *codes: int) -> ChannelRefused | None:
        """Ask on a throw-away channel. Returns the refusal, if it has one of the codes; None: the server agrees."""
        connection = await self._link.wait_up()
        channel = await open_channel(connection)
        try:
            await ask(channel)  # type: ignore[misc]
        except ChannelRefused as error:
            if error.code not in codes:
                if error.code == 403:
                    raise AccessDenied(error.text) from error
                raise
            return error
        finally:
            channel.abandon()
        return None

    # ------------------------------------------------------------------------------------------ making

    async def _make(self, change: Change) -> None:
        if change.property == topology.LIMIT:
            log.warning("%s: %s is %s: %s", change.address, change.property, change.found, change.command)
        if change.property not in (None, BINDINGS):
            return  # delays: later; arguments of which is known only that they exist, or an operator's policy
        connection = await self._link.wait_up()
        channel = await open_channel(connection)
        try:
            await self._declare(channel, change)
        finally:
            channel.abandon()

    async def _connect_delays(self, changes: Sequence[Change]) -> None:
        """Let delayed messages reach what was made: it may have been there before, with some still on their way to it.

        When all is declared, and not before: a topic without its bindings drops what it gets.
        """
        planned = any(change.property == DELAYS for change in changes)
        created = {change.address for change in changes if change.action == "create"}
        targets = dict.fromkeys(
            change.address
            for change in changes
            if (change.property == DELAYS or change.action == "create") and not isinstance(change.address, DeadLetters)
        )

        async def connect(address: Address) -> None:
            try:
                async with self._slots:
                    if planned:
                        await self._delays.make()
                    await self._delays.connect_target(self._name(address), topic=isinstance(address, Topic))
            except ChannelRefused as error:
                if error.code != 403 or address in created:
                    raise self._refused(address, error) from error
                # Nothing here delays for it; who does is told then.
                log.warning("no delays", extra={"destination": str(address), "cause": error.text})

        if targets and (planned or await self._delays.is_made()):
            await asyncio.gather(*map(connect, targets))

    async def _declare(self, channel: Channel, change: Change) -> None:
        address, name = change.address, self._name(change.address)
        if isinstance(address, Topic):
            await channel.declare_exchange(name, topology.EXCHANGE_TYPE)
            return
        if change.action == "create":
            wanted = change.wanted if isinstance(change.wanted, Mapping) else {}
            await channel.declare_queue(name, wanted)
        if isinstance(address, Subscription):
            topic = self._name(address.topic)
            await channel.declare_exchange(topic, topology.EXCHANGE_TYPE)
            for arguments in topology.bindings(address):
                await channel.bind_queue(name, topic, "", arguments)

    def _refused(self, address: Address, error: ChannelRefused) -> ConfigurationError | TransportError:
        if error.code == 403:
            return AccessDenied(f"{address}: {error.text}")
        if error.code == 406:
            return TopologyMismatch(_conflict_text(_conflict(address, error)))
        return error


def _purpose(address: Address) -> Purpose:
    return "dead" if isinstance(address, DeadLetters) else "source"


def _rank(change: Change) -> int:
    """What is referred to before what refers to it."""
    return 0 if isinstance(change.address, Topic) else 1 if isinstance(change.address, DeadLetters) else 2


def _conflict(address: Address, refused: ChannelRefused) -> Change:
    argument, wanted, found = topology.read_inequivalent(refused.text) or ("", "", refused.text)
    return Change(address, "conflict", argument, wanted, found)


def _conflict_text(change: Change) -> str:
    cure = change.command or "delete what is there when it is empty, or use another name"
    return (
        f"{change.address}: {change.property} is {change.found} on the server and {change.wanted} is needed; "
        f"RabbitMQ cannot change it in place: {cure}"
    )


def _limited(letters: DeadLetters, name: str) -> Change:
    pattern = name.replace(".", r"\.")
    policy = f"""rabbitmqctl set_policy {name} '^{pattern}$' '{{"delivery-limit": -1}}' --apply-to quorum_queues"""
    found = "none, as made before RabbitMQ 4.0: the server drops a letter after 21 looks"
    return Change(letters, "unknown", topology.LIMIT, -1, found, f"delete the queue when it is empty, or {policy}")


def _unknown_bindings(subscription: Subscription[object], how: str) -> Change:
    return Change(
        subscription,
        "unknown",
        BINDINGS,
        [dict(arguments) for arguments in topology.bindings(subscription)],
        f"cannot be read {how}; those of an older filter stay, and are removed by hand or with another name",
        "rabbitmqctl list_bindings source_name destination_name arguments",
    )


def _compare_bindings(subscription: Subscription[object], listed: "Sequence[Listed]") -> list[Change]:
    wanted = [dict(arguments) for arguments in topology.bindings(subscription)]
    found = {str(each.get("properties_key")): dict(each.get("arguments", {})) for each in listed}
    if any(arguments not in found.values() for arguments in wanted):
        return [Change(subscription, "update", BINDINGS, wanted, list(found.values()))]
    older = [key for key, arguments in found.items() if arguments not in wanted]
    if older:
        # Of an older filter, or of newer workers: nothing is deleted, and no plan would ever be done with it.
        remove = f"rabbitmqadmin delete binding destination_type=queue properties_key={' or '.join(older)}"
        return [Change(subscription, "unknown", BINDINGS, wanted, list(found.values()), remove)]
    return []
