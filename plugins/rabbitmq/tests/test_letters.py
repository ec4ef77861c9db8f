"""Dead letters on a real server: looked at, removed, purged."""

import asyncio
from typing import Any

import pytest

from busframe.errors import DestinationNotFound, TransportError, Unsupported
from busframe.model.destination import Queue
from busframe_rabbitmq import letters as of_letters
from busframe_rabbitmq.channel import Channel, open_channel
from plugins.rabbitmq.tests.support import opened
from tests.support.transports import consuming, declare, eventually, message, publish_all, receive, take

EMAILS = Queue[Any]("emails")
LETTERS = EMAILS.dead_letters


async def test_looking_removes_nothing(rabbitmq_vhost: str) -> None:
    """Fifty times, page by page; the order and the positions stay."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(
            transport, LETTERS, *(message(id=f"m{number}") for number in range(10)), carried={"bf-dead-reason": "r"}
        )
        first = await transport.browse(LETTERS)
        assert [each.message.id for each in first] == [f"m{number}" for number in range(10)]
        assert {each.message.dead.reason for each in first if each.message.dead} == {"r"}
        for _ in range(50):
            assert list(await transport.browse(LETTERS)) == list(first)
        page = await transport.browse(LETTERS, limit=4)
        page2 = await transport.browse(LETTERS, after=page[-1].position, limit=4)
        assert [each.message.id for each in page2] == ["m4", "m5", "m6", "m7"]
        assert await transport.browse(LETTERS, after=first[-1].position) == []
        assert (await transport.stats(LETTERS)).depth == 10


async def test_remove_takes_the_named_ones(rabbitmq_vhost: str) -> None:
    """And says how many were there; again it says none."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message(id=f"m{number}") for number in range(6)))
        letters = await transport.browse(LETTERS)
        positions = [letters[4].position, letters[1].position, "nonsense"]
        assert await transport.remove(LETTERS, positions) == 2
        assert await transport.remove(LETTERS, positions) == 0
        left = await transport.browse(LETTERS)
        assert {each.message.id for each in left} == {"m0", "m2", "m3", "m5"}
        assert await transport.purge(LETTERS) == 4
        assert await transport.browse(LETTERS) == []


async def test_two_looks_at_once(rabbitmq_vhost: str) -> None:
    """Of one process: each sees all."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message() for _ in range(20)))
        pages = await asyncio.gather(*(transport.browse(LETTERS) for _ in range(4)))
        assert [len(page) for page in pages] == [20] * 4


async def test_other_sources_are_unsupported_and_missing_ones_told(rabbitmq_vhost: str) -> None:
    """What is not claimed raises; purging any queue works."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        with pytest.raises(Unsupported):
            await transport.browse(EMAILS)
        with pytest.raises(Unsupported):
            await transport.remove(EMAILS, ["x"])
        await publish_all(transport, EMAILS, message())
        assert await transport.purge(EMAILS) == 1
        missing = Queue[Any]("missing")
        for asked in (
            transport.browse(missing.dead_letters), transport.purge(missing.dead_letters), transport.stats(missing),
        ):  # fmt: skip
            with pytest.raises(DestinationNotFound):
                await asked


async def test_what_the_broker_dead_letters_has_a_record(rabbitmq_vhost: str) -> None:
    """A message that comes back too often is a crash loop, with its bytes and id, and without its attempts."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(b"b", id="poison"), carried={"bf-attempt": "1 emails"})
        channel = await open_channel(await transport.consuming.wait_up())

        async def given_up() -> bool:
            got = await channel.get("emails")
            if got is not None:
                channel.requeue(got.tag)
            return (await transport.stats(EMAILS)).dead == 1

        await eventually(given_up, "the delivery limit is reached", deadline_s=40)
        (letter,) = await transport.browse(LETTERS)
        assert letter.message.id == "poison"
        assert letter.message.dead is not None
        assert (letter.message.dead.reason, letter.message.dead.source) == ("crash-loop", "emails")
        async with consuming(transport, LETTERS) as receiver:
            (got,) = await receive(receiver, 1)
            assert got.message.dead == letter.message.dead
            assert "bf-attempt" not in got.carried


async def test_letters_can_be_consumed(rabbitmq_vhost: str) -> None:
    """Like any source."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, message(id="a"), carried={"bf-dead-reason": "rejected"})
        async with consuming(transport, LETTERS) as receiver:
            (got,) = await take(receiver, 1)
            assert got.message.dead is not None
            assert got.message.dead.reason == "rejected"


async def test_the_newest_is_removed_and_the_older_ones_stay(rabbitmq_vhost: str) -> None:
    """What is given back after it does not depend on which letters are gone."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message(id=f"m{number}") for number in range(3)))
        letters = await transport.browse(LETTERS)
        assert await transport.remove(LETTERS, [letters[-1].position]) == 1
        assert list(await transport.browse(LETTERS)) == list(letters[:-1])


async def test_more_letters_than_a_queue_gives_a_consumer_without_a_limit(rabbitmq_vhost: str) -> None:
    """A quorum queue gives 2000 and waits; all are seen, the last one is removed, the order stays."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message(id=f"m{number}") for number in range(2500)))
        letters = await transport.browse(LETTERS, limit=3000)
        assert [each.message.id for each in letters] == [f"m{number}" for number in range(2500)]
        assert await transport.remove(LETTERS, [letters[-1].position]) == 1
        assert (await transport.stats(LETTERS)).depth == 2499


async def test_more_letters_than_one_look_can_hold(rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look says so at once and takes none; a purge makes room."""
    monkeypatch.setattr(of_letters, "MAX_PREFETCH", 7)
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message(id=f"m{number}") for number in range(8)))
        for asked in (transport.browse(LETTERS), transport.remove(LETTERS, ["x"])):
            with pytest.raises(TransportError, match="emails--dead holds 8 letters, and a look can hold 7") as refused:
                await asked
            assert not refused.value.transient
        assert await transport.purge(LETTERS) == 8
        assert await transport.browse(LETTERS) == []


async def test_a_look_at_letters_that_do_not_come_ends(rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many came; they are back, and the next look sees all."""
    consume = Channel.consume

    async def one_less(self: Channel, *arguments: Any, prefetch: int) -> str:
        return await consume(self, *arguments, prefetch=prefetch - 1)

    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message() for _ in range(5)))
        with monkeypatch.context() as patched:
            patched.setattr(of_letters, "STALLED_S", 0.2)
            patched.setattr(Channel, "consume", one_less)
            with pytest.raises(TransportError, match=r"of 5 letters the server sent 4,"):
                await transport.browse(LETTERS)

        async def all_back() -> bool:
            return len(await transport.browse(LETTERS)) == 5

        await eventually(all_back, "all letters are back")
