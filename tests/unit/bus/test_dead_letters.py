"""Dead letters from Python: looked at, sent back, removed."""

from collections.abc import AsyncIterator

import pytest

from busframe import Bus, DeadLetterRecord, Message, Queue, Retry, Topic
from busframe.bus.dead_letters import DeadLetterBox
from busframe.errors import ClosedError, ConfigurationError, DestinationNotFound, PublishError

TOTAL = 250

orders = Topic("orders")
shipping = orders.subscription("shipping")
billing = orders.subscription("billing")


class Shop:
    """A subscription that fails until it is told otherwise, and a sibling."""

    def __init__(self) -> None:
        self.broken = True
        self.shipped: list[Message] = []
        self.attempts: list[int] = []
        self.billed: list[Message] = []
        self.bus = Bus("memory://")

        @self.bus.handle(shipping, retry=Retry(max_attempts=1))
        async def ship(message: Message) -> None:
            if self.broken:
                raise (KeyError if message.body == b"0" else ValueError)(message.body.decode())
            self.shipped.append(message)

        @self.bus.handle(billing)
        async def bill(message: Message) -> None:
            self.billed.append(message)

    async def work(self) -> None:
        """Handle everything that is there."""
        async with self.bus.worker() as worker:
            await worker.wait_idle(0.02)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop with many dead letters."""
    shop = Shop()
    async with shop.bus:
        for n in range(TOTAL):
            await shop.bus.publish(orders, b"%d" % n, headers={"odd": str(n % 2)})
        await shop.work()
        yield shop


async def all_of(box: DeadLetterBox) -> list[DeadLetterRecord]:
    """Every letter."""
    return [record async for record in box.list(limit=10_000)]


async def test_letters_are_listed_in_their_order_over_pages(shop: Shop) -> None:
    """Each once, oldest first, with its reason; looking takes nothing."""
    box = shop.bus.dead_letters(shipping)
    for _ in range(3):
        letters = await all_of(box)
        assert [int(letter.message.body) for letter in letters] == list(range(TOTAL))
    assert {letter.message.dead.reason for letter in letters if letter.message.dead} == {"attempts"}


async def test_letters_are_chosen(shop: Shop) -> None:
    """By reason, by the class of the error, by headers, up to a limit."""
    box = shop.bus.dead_letters(shipping.dead_letters)
    assert [record.message.body async for record in box.list(error_type="KeyError")] == [b"0"]
    assert [record.message.body async for record in box.list(where={"odd": "1"}, limit=2)] == [b"1", b"3"]
    assert [record async for record in box.list(reason="rejected")] == []
    assert [record async for record in box.list(limit=0)] == []


async def test_a_replay_reaches_its_source_alone_and_begins_anew(shop: Shop) -> None:
    """The id stays, the replay is counted, the letters are gone, and no other subscription sees it."""
    box = shop.bus.dead_letters(shipping)
    before = await all_of(box)
    billed = len(shop.billed)
    assert await box.replay(before) == TOTAL
    await shop.work()
    again = await all_of(box)
    assert [letter.message.id for letter in again] == [letter.message.id for letter in before]
    assert {(letter.message.dead.attempts, letter.message.dead.replays) for letter in again if letter.message.dead} == {
        (1, 1)
    }
    shop.broken = False
    assert await box.replay(again, rate_per_s=10_000) == TOTAL
    await shop.work()
    assert len(shop.shipped) == TOTAL
    assert all(message.dead is None for message in shop.shipped)
    assert len(shop.billed) == billed
    assert await all_of(box) == []


async def test_letters_can_be_replayed_elsewhere(shop: Shop) -> None:
    """To another destination they go as messages like any other."""
    elsewhere = Queue("elsewhere")
    box = shop.bus.dead_letters(shipping)
    letters = await all_of(box)
    with pytest.raises(DestinationNotFound) as failed:
        await box.replay(letters[:2], to=elsewhere)
    assert isinstance(failed.value, PublishError)
    assert len(await all_of(box)) == TOTAL
    assert await box.replay(letters[:2], to=orders) == 2
    with pytest.raises(ConfigurationError, match="not a queue or a topic"):
        await box.replay(letters[:1], to=shipping)  # type: ignore[arg-type]


async def test_letters_are_removed(shop: Shop) -> None:
    """Those that are named, or all."""
    box = shop.bus.dead_letters(shipping)
    letters = await all_of(box)
    assert await box.purge(letters[:10]) == 10
    assert await box.purge(letters[:10]) == 0
    assert await box.purge() == TOTAL - 10
    assert await all_of(box) == []


async def test_what_has_no_dead_letters_says_so() -> None:
    """A topic has none, and a closed bus shows none."""
    bus = Bus("memory://", uses=[shipping])
    with pytest.raises(ConfigurationError, match="give a queue or a subscription"):
        bus.dead_letters(orders)  # type: ignore[arg-type]
    with pytest.raises(ClosedError):
        await all_of(bus.dead_letters(shipping))
