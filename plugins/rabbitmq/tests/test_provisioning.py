"""Planning and applying on a real server."""

import asyncio
from typing import Any

import pytest

from busframe.errors import AccessDenied, TopologyMismatch
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Change
from busframe_rabbitmq.channel import open_channel
from busframe_rabbitmq.topology import queue_arguments
from plugins.rabbitmq.tests.support import opened
from tests.support.transports import consuming, declare, entities, message, publish_all, take

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
STOCK = ORDERS.subscription("stock", where={"kind": ["a", "b"]})


def differences(changes: Any) -> list[tuple[str, str, str | None]]:
    """What is a difference for an exit code."""
    return [(str(each.address), each.action, each.property) for each in changes if each.action != "unknown"]


async def test_plan_apply_plan(rabbitmq_vhost: str) -> None:
    """What is missing is planned and made, and nothing is left to do but what cannot be known."""
    wanted = entities(EMAILS, STOCK, max_attempts=5, longest_delay_s=10)
    async with opened(rabbitmq_vhost) as transport:
        changes = await transport.plan(wanted)
        assert differences(changes) == [
            ("emails", "create", None), ("emails!dead", "create", None), ("orders", "create", None),
            ("orders/stock", "create", None), ("orders/stock!dead", "create", None), ("emails", "create", "delays"),
            ("orders/stock", "create", "delays"),
        ]  # fmt: skip
        assert differences(await transport.plan(wanted)) == differences(changes)
        await transport.apply(changes)
        left = await transport.plan(wanted)
        assert [(str(each.address), each.action, each.property) for each in left] == [
            ("orders/stock", "unknown", "bindings"), ("emails", "unknown", "delays"), ("orders", "unknown", "delays"),
            ("orders/stock", "unknown", "delays"),
        ]  # fmt: skip
        await transport.apply(left)
        await transport.apply(changes)


async def test_ten_at_once(rabbitmq_vhost: str) -> None:
    """Processes that start together do not disturb each other."""
    async with opened(rabbitmq_vhost) as first, opened(rabbitmq_vhost) as second:
        await asyncio.gather(
            *(declare(each, EMAILS, STOCK, max_attempts=5, longest_delay_s=9) for each in (first, second) * 5)
        )
        assert differences(await first.plan(entities(EMAILS, STOCK, max_attempts=5, longest_delay_s=9))) == []


async def test_what_differs_is_named_and_the_transport_stays_usable(rabbitmq_vhost: str) -> None:
    """Queue and argument, what is and what is wanted; a topic of another kind as well."""
    async with opened(rabbitmq_vhost) as transport:
        channel = await open_channel(await transport.consuming.wait_up())
        await channel.declare_queue("emails", {**queue_arguments("emails"), "x-delivery-limit": 5})
        await channel.declare_exchange("orders", "fanout")
        changes = await transport.plan(entities(EMAILS, STOCK))
        conflicts = [each for each in changes if each.action == "conflict"]
        assert [(str(each.address), each.property) for each in conflicts] == [
            ("emails", "x-delivery-limit"), ("orders", "type"),
        ]  # fmt: skip
        assert "5" in str(conflicts[0].found)
        assert "100" in str(conflicts[0].wanted)
        with pytest.raises(TopologyMismatch, match="x-delivery-limit") as refused:
            await transport.apply(changes)
        assert len(refused.value.problems) == 2
        with pytest.raises(TopologyMismatch, match="x-delivery-limit"):
            await transport.apply(
                [Change(EMAILS, "create", wanted={**queue_arguments("emails"), "x-delivery-limit": 7})]
            )
        other = Queue[Any]("other")
        await declare(transport, other)
        await publish_all(transport, other, message())


async def test_order_cannot_be_added_and_need_not_be_known_by_who_publishes(rabbitmq_vhost: str) -> None:
    """A queue with one active consumer conflicts for who handles it without, and not for who only publishes."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, ordering="key", max_attempts=5)
        assert differences(await transport.plan(entities(EMAILS))) == []
        handled = await transport.plan(entities(EMAILS, max_attempts=5))
        assert differences(handled) == [("emails", "conflict", "x-single-active-consumer")]


async def test_a_changed_filter_adds_first(rabbitmq_vhost: str) -> None:
    """The new bindings are made; those of the old filter stay, which the plan says."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, STOCK)
        wider = ORDERS.subscription("stock", where={"kind": ["a", "c"]})
        (change,) = [each for each in await transport.plan(entities(wider)) if each.action == "unknown"]
        assert "older filter" in str(change.found)
        await transport.apply([change])
        await publish_all(transport, ORDERS, *(message(id=kind, headers={"kind": kind}) for kind in "abcd"))
        async with consuming(transport, wider) as receiver:
            assert {each.message.id for each in await take(receiver, 3)} == {"a", "b", "c"}


async def test_with_few_rights(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Who may only read and write publishes and consumes, verifies existence, and is told what it may not."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    user = f"user-{vhost}"
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, STOCK, max_attempts=5, longest_delay_s=5)
        await publish_all(transport, EMAILS, message(), delay_s=0.1)
    rabbitmq.api("PUT", f"/users/{user}", {"password": "p", "tags": ""})
    try:
        rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", {"configure": "", "write": ".*", "read": ".*"})
        async with opened(rabbitmq_vhost.replace("guest:guest", f"{user}:p")) as transport:
            changes = await transport.plan(entities(EMAILS, STOCK))
            assert {each.action for each in changes} == {"unknown"}
            assert {each.property for each in changes} == {"arguments", "bindings", "delays"}
            assert differences(await transport.plan(entities(Queue("missing")))) != []
            with pytest.raises(AccessDenied):
                await declare(transport, Queue("missing"))
            await publish_all(transport, EMAILS, message())
            await publish_all(transport, ORDERS, message())
            await publish_all(transport, EMAILS, message(), delay_s=0.1)
            async with consuming(transport, EMAILS) as receiver:
                await take(receiver, 3)
    finally:
        rabbitmq.api("DELETE", f"/users/{user}")
