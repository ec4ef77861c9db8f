"""What an application needs on the broker, and the three modes of getting it: create, verify, assume."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from busframe.errors import TopologyMismatch
from busframe.handling.plan import SourcePlan, disagreement
from busframe.model.destination import Address, DeadLetters, Destination, Queue, Source, Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe.spi.transport import Transport


def entities_of(
    uses: Iterable[Destination[Any] | Source[Any]],
    plans: Iterable[SourcePlan],
    plugin: str,
    configured: Mapping[str, Mapping[str, Mapping[str, object]]],
) -> list[Entity]:
    """Everything that must exist, each once: topics before their subscriptions, each source before its dead letters.

    Args:
        uses: what the bus says it uses.
        plans: what it handles.
        plugin: whose options are taken.
        configured: options of queues and topics from configuration, by their name and the plugin's.
    """
    wanted: dict[Address, Entity] = {}

    def need(address: Address, entity: Entity | None = None) -> None:
        if isinstance(address, Subscription):
            need(address.topic)
        if isinstance(address, DeadLetters):
            need(address.of)
        if entity is not None or address not in wanted:
            options = {
                **address.options.get(plugin, {}),
                **configured.get(_configured_name(address), {}).get(plugin, {}),
            }
            wanted[address] = replace(entity or Entity(address), options=options)
        if isinstance(address, Queue | Subscription) and address.dead_letters not in wanted:
            wanted[address.dead_letters] = Entity(address.dead_letters, options=wanted[address].options)

    for item in uses:
        if isinstance(item, Queue | Topic | Subscription | DeadLetters):
            need(item)
    for plan in plans:
        need(plan.source, plan.entity)
    return list(wanted.values())


def _configured_name(address: Address) -> str:
    match address:
        case DeadLetters(of=source):
            return _configured_name(source)
        case Subscription(topic=topic):
            return topic.name
        case Queue(name=name) | Topic(name=name):
            return name


def subscription_disagreements(addresses: Sequence[object]) -> list[str]:
    """What is wrong where one subscription is declared with two meanings."""
    first: dict[Subscription[Any], Subscription[Any]] = {}
    problems: list[str] = []
    for address in addresses:
        if isinstance(address, Subscription):
            problems += disagreement(first.setdefault(address, address), address)
    return list(dict.fromkeys(problems))


async def ensure(transport: Transport, entities: Sequence[Entity], mode: Literal["create", "verify", "assume"]) -> None:
    """Bring about, or compare, what must exist.

    Raises:
        TopologyMismatch: what exists differs in a way that cannot be changed in place; or, with ``verify``, at all.
    """
    if mode == "assume" or not entities:
        return
    changes = await transport.plan(entities)
    if mode == "verify":
        different = [change for change in changes if change.action != "unknown"]
        if different:
            raise TopologyMismatch([describe(change, 'topology = "verify"') for change in different])
        return
    conflicts = [describe(change, "it cannot be changed in place") for change in changes if change.action == "conflict"]
    if conflicts:
        raise TopologyMismatch(conflicts)
    await transport.apply(changes)


def describe(change: Change, why: str) -> str:
    """One difference, for people."""
    what = f"{type(change.address).__name__.lower()} {change.address}"
    if change.action == "create":
        text = f"{what}: {change.property or 'it'} does not exist on the broker ({why})"
    elif change.property is None:
        text = f"{what}: it differs on the broker ({why})"
    else:
        text = f"{what}: {change.property} is {change.found!r} on the broker, and {change.wanted!r} is asked ({why})"
    return f"{text}: {change.command}" if change.command else text
