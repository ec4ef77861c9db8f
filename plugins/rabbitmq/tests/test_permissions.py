"""The rights that the page for operators gives are enough for what it says, and for no more."""

import asyncio
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from busframe import Bus, Context, Queue, Reject, Retry, Topic
from busframe.errors import AccessDenied, BusframeError, PublishFailed
from plugins.rabbitmq.tests.support import opened
from tests.support.transports import consuming, declare, message, publish, publish_all, take

pytestmark = pytest.mark.broker

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "operate-rabbitmq.md"

emails = Queue("emails", str)
orders = Topic("orders", str)
billing = orders.subscription("billing")


@pytest.fixture
def urls(rabbitmq: Any, rabbitmq_vhost: str) -> Iterator[dict[str, str]]:
    """A URL for each user of the page, with the rights that it says."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    lines = [shlex.split(line)[-4:] for line in re.findall(r"^rabbitmqctl set_permissions.*$", PAGE.read_text(), re.M)]
    assert [line[0] for line in lines] == ["shop-setup", "shop-worker", "shop-web"]
    for user, configure, write, read in lines:
        rabbitmq.api("PUT", f"/users/{user}", {"password": "p", "tags": ""})
        rights = {"configure": configure, "write": write, "read": read}
        rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", rights)
    yield {user: rabbitmq_vhost.replace("guest:guest", f"{user}:p") for user, *_ in lines}
    for user, *_ in lines:
        rabbitmq.api("DELETE", f"/users/{user}")


def shop(url: str, topology: Literal["create", "assume"], handled: list[tuple[str, int]]) -> Bus:
    """An application; a body says what its handler does."""
    bus = Bus(url, config={"topology": topology}, retry=Retry(max_attempts=3, delay_s=0.1))

    async def handle(body: str, ctx: Context) -> None:
        handled.append((body, ctx.attempt))
        if body == "reject":
            raise Reject("as it says")
        if body == "retry" and ctx.attempt == 1:
            raise RuntimeError("not yet")

    bus.handle(emails, name="send")(handle)
    bus.handle(billing, name="bill")(handle)
    return bus


async def test_they_are_enough(urls: dict[str, str]) -> None:
    """Set up by one user, published by another, and handled by a third: with retries, delays and dead letters."""
    handled: list[tuple[str, int]] = []
    async with shop(urls["shop-setup"], "create", handled).worker():
        pass
    web = Bus(urls["shop-web"], config={"topology": "assume"}, uses=[emails, orders])
    worker = shop(urls["shop-worker"], "assume", handled)
    async with web, worker, worker.worker() as running:
        await web.publish(emails, "mail")
        await web.publish(emails, "retry")
        await web.publish(emails, "reject")
        await web.publish(emails, "later", delay_s=0.2)
        await web.publish(orders, "order")
        async with asyncio.timeout(20):
            while len(handled) < 6:
                await running.wait_idle()
        assert sorted(handled) == [
            ("later", 1), ("mail", 1), ("order", 1), ("reject", 1), ("retry", 1), ("retry", 2)
        ]  # fmt: skip
        (letter,) = [letter async for letter in worker.dead_letters(emails).list()]
        assert letter.message.body == b"reject"
        replayed = await worker.dead_letters(emails).replay([letter])
        assert replayed == 1
        async with asyncio.timeout(20):
            while len(handled) < 7:
                await running.wait_idle()


async def test_a_delay_that_has_no_way_to_its_queue_is_refused(urls: dict[str, str], rabbitmq_vhost: str) -> None:
    """Who may not make the way says who has to; kept in the cascade, 33 of them would stop the delays of all others."""
    late = Queue("late", str)
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, late)  # no delays are needed yet
        await declare(transport, emails, max_attempts=5, longest_delay_s=60)
    async with opened(urls["shop-web"]) as web, opened(rabbitmq_vhost) as transport:
        (refused,) = await publish(web, late, message(), delay_s=0.1)
        assert isinstance(refused, PublishFailed)
        assert not refused.transient
        assert re.search('bf--due--late.*topology = "create"', str(refused))
        await publish_all(web, emails, message(), delay_s=0.1)
        await declare(transport, late)
        await publish_all(web, late, message(), delay_s=0.1)
        async with consuming(transport, late) as receiver:
            await take(receiver, 1)


async def test_they_are_no_more(urls: dict[str, str]) -> None:
    """Who publishes cannot consume, and who works cannot declare."""
    with pytest.raises(AccessDenied):
        async with shop(urls["shop-worker"], "create", []).worker():
            pass
    async with shop(urls["shop-setup"], "create", []).worker():
        pass
    with pytest.raises(BusframeError) as refused:
        async with shop(urls["shop-web"], "assume", []).worker():
            pass
    assert isinstance(refused.value, AccessDenied)
