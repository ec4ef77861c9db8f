"""Looking at dead letters on a real Kafka, and removing them."""

from typing import Any

import pytest

from busframe.errors import DestinationNotFound, Unsupported
from busframe.model.destination import Queue
from plugins.kafka.tests.support import opened, stored
from tests.support.transports import declare, message, publish_all

EMAILS = Queue[Any]("emails")
LETTERS = EMAILS.dead_letters
WHY = {"bf-dead-reason": "rejected", "bf-dead-attempts": "1", "bf-dead-source": "emails"}


async def test_letters_are_shown_in_their_order_and_in_pages(kafka_url: str) -> None:
    """With why they are letters; looking removes none."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        sent = [message(b"%d" % number, key="same", headers={"a": "b"}) for number in range(5)]
        for each in sent:
            await publish_all(transport, LETTERS, each, carried=WHY, dedup_key=f"{each.id}/1")
        first = await transport.browse(LETTERS, limit=2)
        second = await transport.browse(LETTERS, after=first[-1].position, limit=10)
        shown = [each.message for each in (*first, *second)]
        assert [each.id for each in shown] == [each.id for each in sent]
        assert {(each.key, each.headers["a"]) for each in shown} == {("same", "b")}
        assert {each.dead.reason for each in shown if each.dead is not None} == {"rejected"}
        assert all(each.enqueued_at is not None for each in first)
        assert (await transport.stats(EMAILS)).dead == 5
        assert (await transport.stats(LETTERS)).depth == 5


async def test_the_same_letter_twice_is_one(kafka_url: str) -> None:
    """A crash between copy and acknowledgement writes it again, under the same key."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        letter = message()
        for _ in range(2):
            await publish_all(transport, LETTERS, letter, carried=WHY, dedup_key=f"{letter.id}/1")
        assert len(await transport.browse(LETTERS)) == 1
        await publish_all(transport, LETTERS, letter, carried=WHY, dedup_key=f"{letter.id}/2")
        assert len(await transport.browse(LETTERS)) == 2


async def test_letters_are_removed_by_their_position(kafka_url: str) -> None:
    """What is gone is not counted again, and a look goes on after a letter that is gone."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, LETTERS, *(message(id=f"m{number}") for number in range(4)), carried=WHY)
        shown = await transport.browse(LETTERS)
        positions = [shown[1].position, shown[2].position]
        assert await transport.remove(LETTERS, positions) == 2
        assert await transport.remove(LETTERS, positions) == 0
        assert await transport.remove(LETTERS, []) == 0
        assert [each.message.id for each in await transport.browse(LETTERS)] == ["m0", "m3"]
        assert [each.message.id for each in await transport.browse(LETTERS, after=positions[0])] == ["m3"]
        assert await transport.purge(LETTERS) == 2
        assert await transport.purge(LETTERS) == 0
        assert await transport.browse(LETTERS) == []
        assert [record.value() for record in await stored(transport, transport.names.dead(EMAILS))].count(None) == 4


async def test_other_sources_are_not_touched(kafka_url: str) -> None:
    """And what does not exist is missed."""
    async with opened(kafka_url) as transport:
        for call in (transport.browse(EMAILS), transport.remove(EMAILS, ["0/0/x"]), transport.purge(EMAILS)):
            with pytest.raises(Unsupported):
                await call
        with pytest.raises(DestinationNotFound):
            await transport.browse(LETTERS)
        with pytest.raises(DestinationNotFound):
            await transport.stats(EMAILS)
