"""Testing an application, as its author does."""

import asyncio
import time

import pytest
from pydantic import BaseModel

from busframe import Bus, Context, PauseSource, Queue, Retry, SyncContext, Topic, testing
from busframe.errors import ConfigurationError


class Order(BaseModel):
    id: int


class Email(BaseModel):
    to: str


orders = Topic("orders", Order)
emails = Queue("emails", Email)
bus = Bus("amqp://nobody.invalid", uses=[emails])
shipping = orders.subscription("shipping", where={"express": "yes"})


@bus.handle(shipping, retry=Retry(max_attempts=4, delay_s=3600, factor=1, max_delay_s=3600))
async def ship(order: Order, ctx: Context) -> None:
    """Fail on unlucky numbers, and tell the customer a day later."""
    if order.id == 13 or (order.id == 7 and ctx.attempt < 3):
        raise ConnectionError("the carrier is closed")
    await ctx.publish(emails, Email(to=f"customer-{order.id}"), delay_s=86_400)


@bus.handle(emails)
def send(email: Email, ctx: SyncContext) -> None:
    """Send it, in a thread."""
    tried.append(email.to)
    if email.to == "customer-6" and len(tried) == 1:
        raise PauseSource(600.0, "the mail server is down")
    sent.append(email.to)


tried: list[str] = []
sent: list[str] = []

EXPRESS = {"express": "yes"}


async def test_everything_that_was_caused_is_settled_in_no_time() -> None:
    """Hours of retries, a pause and days of delay are jumped over; what was filtered out did not reach the handler."""
    sent.clear()
    tried.clear()
    started = time.monotonic()
    async with testing.run(bus) as running:
        for number in (6, 7, 13):
            await running.publish(orders, Order(id=number), headers=EXPRESS)
        await running.publish(orders, Order(id=99))
        await running.settled()
        assert len(running.attempts(ship)) == 1 + 3 + 4
        assert running.published(emails) == [Email(to="customer-6"), Email(to="customer-7")]
        assert running.published(orders) == [Order(id=number) for number in (6, 7, 13, 99)]
        assert sorted(sent) == ["customer-6", "customer-7"]
        assert tried.count("customer-6") == 2
        (letter,) = running.dead(shipping)
        assert letter.message.dead is not None
        assert (letter.message.dead.reason, letter.message.dead.attempts) == ("attempts", 4)
        assert not running.dead(emails)
    assert time.monotonic() - started < 20


async def test_only_the_named_handlers_run() -> None:
    """What the others would handle stays where it is, and nobody waits for it."""
    sent.clear()
    async with testing.run(bus, handlers=["ship"]) as running:
        await running.publish(orders, Order(id=1), headers=EXPRESS)
        await running.settled()
        assert running.published(emails) == [Email(to="customer-1")]
        assert sent == []
        assert not running.attempts(send)


async def test_time_is_moved_by_hand() -> None:
    """A retry comes when its delay is over, and no earlier."""
    async with testing.run(bus, handlers=["ship"]) as running:
        await running.publish(orders, Order(id=13), headers=EXPRESS)
        await running.advance(3599)  # what was published is handled first, so its retry is due after a second more
        assert len(running.attempts(ship)) == 1
        await running.advance(2)
        assert len(running.attempts(ship)) == 2
        await running.advance(24 * 3600)
        assert len(running.attempts(ship)) == 4
        assert len(running.dead(shipping)) == 1


async def test_a_function_stands_in_for_a_handler() -> None:
    """It is called in its place, under its name and policy; afterwards the bus is as it was."""
    seen: list[int] = []

    async def fake(order: Order) -> None:
        seen.append(order.id)

    async with testing.run(bus, replace={ship: fake}) as running:
        await running.publish(orders, Order(id=13), headers=EXPRESS)
        await running.settled()
        assert seen == [13]
        assert len(running.attempts(ship)) == 1
    assert [handler.fn for handler in bus.handlers] == [ship, send]


async def test_mistakes_are_told() -> None:
    """What is no handler, and a bus that is open."""
    with pytest.raises(ConfigurationError, match="no handler of this bus"):
        async with testing.run(bus, replace={test_mistakes_are_told: ship}):
            pass
    async with testing.run(bus) as running:
        with pytest.raises(ConfigurationError, match="no handler of this bus"):
            running.attempts(print)
        with pytest.raises(ConfigurationError, match="is open"):
            async with testing.run(bus):
                pass


async def test_what_does_not_end_is_named() -> None:
    """A handler that hangs makes settled() fail with the message that it holds."""
    hanging = Bus()
    queue = Queue("hanging", str)
    release = asyncio.Event()

    @hanging.handle(queue)
    async def hang(body: str) -> None:
        await release.wait()

    async with testing.run(hanging) as running:
        message = await running.publish(queue, "x")
        with pytest.raises(AssertionError, match=f"not settled within 0.05 s: {message.id} of hanging"):
            await running.settled(0.05)
        release.set()
        await running.settled()
