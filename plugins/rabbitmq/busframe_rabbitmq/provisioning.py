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
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``.

        Raises:
            ConfigurationError: an entity's options hold what is unknown here.
        """
        wanted = [self._wanted(entity) for entity in entities]
        found = await asyncio.gather(*map(self._compare, entities, wanted))
        changes = [change for each in found for change in each]
        delayed = next(
            (entity for entity in entities if topology.is_handled(entity) and entity.longest_delay_s > 0), None
        )
        changes += await self._look_closer([entity.address for entity in entities], changes, delayed)
        if delayed is not None and not await self._delays.is_made():
            changes.append(Change(delayed.address, "create", DELAYS, "the delay queues of this prefix"))
        return changes

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        conflicts = [_conflict_text(change) for change in changes if change.action == "conflict"]
        if conflicts:
            raise TopologyMismatch(conflicts)
        for change in sorted(changes, key=_rank):
            try:
                await self._make(change)
            except ChannelRefused as error:
                raise self._refused(change, error) from error
        await self._connect_delays([change.address for change in changes if change.action == "create"])

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

    async def _compare_arguments(self, entity: Entity, name: str, wanted: Mapping[str, object]) -> list[Change]:
        refused = await self._refusal(lambda channel: channel.declare_queue(name, wanted), 406, 403)
        if refused is None:
            return []
        if refused.code == 403:
            # Without the right to configure, the server does not say more than that it exists.
            return [Change(entity.address, "unknown", ARGUMENTS, dict(wanted), "existence only: no right to configure")]
        conflict = _conflict(entity.address, refused)
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
        if change.property == DELAYS:
            await self._delays.make()
            return
        if change.property not in (None, BINDINGS):
            return  # arguments of which is known only that they exist, or an operator's policy
        connection = await self._link.wait_up()
        channel = await open_channel(connection)
        try:
            await self._declare(channel, change)
        finally:
            channel.abandon()

    async def _connect_delays(self, made: Sequence[Address]) -> None:
        """Let delayed messages reach what was made: it may have been there before, with some still on their way to it.

        When all is declared, and not before: a topic without its bindings drops what it gets.
        """
        targets = [address for address in dict.fromkeys(made) if not isinstance(address, DeadLetters)]
        if targets and await self._delays.is_made():
            for address in targets:
                await self._delays.connect_target(self._name(address), topic=isinstance(address, Topic))

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

    def _refused(self, change: Change, error: ChannelRefused) -> ConfigurationError | TransportError:
        if error.code == 403:
            return AccessDenied(f"{change.address}: {error.text}")
        if error.code == 406:
            return TopologyMismatch(_conflict_text(_conflict(change.address, error)))
        return error


def _purpose(address: Address) -> Purpose:
    return "dead" if isinstance(address, DeadLetters) else "source"


def _rank(change: Change) -> int:
    """Delays first: what is made next is connected to them. What is referred to before what refers to it."""
    if change.property == DELAYS:
        return 0
    return 1 if isinstance(change.address, Topic) else 2 if isinstance(change.address, DeadLetters) else 3


def _conflict(address: Address, refused: ChannelRefused) -> Change:
    argument, wanted, found = topology.read_inequivalent(refused.text) or ("", "", refused.text)
    return Change(address, "conflict", argument, wanted, found)


def _conflict_text(change: Change) -> str:
    cure = change.command or "delete what is there when it is empty, or use another name"
    return (
        f"{change.address}: {change.property} is {change.found} on the server and {change.wanted} is needed; "
        f"RabbitMQ cannot change it in place: {cure}"
    )


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
