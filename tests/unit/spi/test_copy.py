import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from busframe.errors import (
    BusframeError,
    ConnectionFailed,
    DestinationNotFound,
    MessageTooLarge,
    PublishFailed,
    PublishOutcomeUnknown,
    SettlementLost,
)
from busframe.logic.attempts import record_failure
from busframe.logic.dead_letter import FailureRecord, dead_letter_headers
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, Queue
from busframe.model.message import Message
from busframe.model.settlement import ACK, DeadLetter, Nack, Settlement
from busframe.spi.copy import COPY_TIMEOUT_S, copy_then_ack
from busframe.spi.transport import Receiver, Transport

NOW = "2026-01-02T03:04:05.000000Z"
QUEUE = Queue("q")
MESSAGE = Message(b"body", "id-1", type="T", headers={"x": "1"}, key="k")


class Broker:
    """Both ends of a broker, as far as a copy needs them; notes what was asked of it, in order."""

    def __init__(self) -> None:
        self.asked: list[Outgoing | tuple[Delivery, Settlement]] = []
        self.timeouts: list[float] = []
        self.publish_raises: BaseException | None = None
        self.publish_outcome: Exception | None = None
        self.settle_outcome: Exception | None = None

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        self.asked += outgoing
        self.timeouts.append(timeout_s)
        if self.publish_raises is not None:
            raise self.publish_raises
        return [self.publish_outcome]

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        self.asked += settled
        return [self.settle_outcome]

    async def copy(self, delivery: Delivery, settlement: Nack | DeadLetter, to: Address = QUEUE) -> Exception | None:
        return await copy_then_ack(cast("Transport", self), cast("Receiver", self), delivery, settlement, to=to)

    @property
    def copied(self) -> Outgoing:
        copy = self.asked[0]
        assert isinstance(copy, Outgoing)
        return copy


def delivery(position: str = "7", message: Message = MESSAGE) -> Delivery:
    """A delivery of which only what matters is said."""
    return Delivery(message, object(), position, 1, 0)


def retry(failures: int = 1, delay_s: float = 5.0) -> Nack:
    """What is to be done about a failure: again, later."""
    return Nack(delay_s, record_failure({}, "q", failures, NOW))


def letter(attempts: int = 5) -> DeadLetter:
    """What is to be done about the last failure: a dead letter."""
    record = FailureRecord("attempts", "E", "no", None, attempts, NOW, "q", "handle", "host")
    return DeadLetter("attempts", "no", dead_letter_headers({}, record))


async def key_of(settlement: Nack | DeadLetter, of: Delivery, to: Address = QUEUE) -> str:
    """The key under which the copy is published."""
    broker = Broker()
    assert await broker.copy(of, settlement, to) is None
    return broker.copied.dedup_key


async def test_the_copy_is_confirmed_before_the_original_is_acknowledged() -> None:
    """A delayed retry is the same message with its delay and what it carries; then the original is acknowledged."""
    broker, original, again = Broker(), delivery(), retry()
    assert await broker.copy(original, again) is None
    copy = broker.copied
    assert (copy.to, copy.message, copy.delay_s, copy.carried) == (QUEUE, MESSAGE, 5.0, again.carried)
    assert broker.asked[1:] == [(original, ACK)]
    assert broker.timeouts == [COPY_TIMEOUT_S]


async def test_a_dead_letter_is_a_copy_with_its_record() -> None:
    """It goes to the dead letters at once, with the record and nothing else changed."""
    broker, dead = Broker(), letter()
    assert await broker.copy(delivery(), dead, QUEUE.dead_letters) is None
    copy = broker.copied
    assert (copy.to, copy.message, copy.delay_s, copy.carried) == (QUEUE.dead_letters, MESSAGE, 0.0, dead.carried)


async def test_the_same_copy_has_the_same_key() -> None:
    """A crash between copy and acknowledgement makes the same copy again, which a broker can recognise."""
    assert await key_of(retry(), delivery()) == await key_of(retry(delay_s=9.0), delivery())
    assert await key_of(letter(), delivery(), QUEUE.dead_letters) == await key_of(
        letter(), delivery(), QUEUE.dead_letters
    )


async def test_another_copy_has_another_key() -> None:
    """Another attempt, position, message, source or kind is another write, and none has the message's own key."""
    keys = [
        await key_of(retry(1), delivery()),
        await key_of(retry(2), delivery()),
        await key_of(retry(1), delivery("8")),
        await key_of(retry(1), delivery(message=Message(b"body", "id-2"))),
        await key_of(retry(1), delivery(), Queue("other")),
        await key_of(letter(5), delivery(), QUEUE.dead_letters),
        await key_of(letter(6), delivery(), QUEUE.dead_letters),
        await key_of(letter(5), delivery(), Queue("other").dead_letters),
    ]
    assert len({*keys, "id-1", "id-2"}) == len(keys) + 2
    assert all(key.startswith(("id-1/", "id-2/")) for key in keys)


async def test_where_there_is_no_position_the_body_stands_for_it() -> None:
    """Two messages of one id and different bodies are not taken for one."""
    twin = delivery("", Message(b"another", "id-1"))
    assert await key_of(retry(), delivery("")) == await key_of(retry(), delivery(""))
    assert await key_of(retry(), delivery("")) != await key_of(retry(), twin)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("gone"),
        DestinationNotFound("q!dead"),
        MessageTooLarge(2, 1),
        PublishOutcomeUnknown("no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_without_a_copy_the_original_is_untouched(error: BusframeError) -> None:
    """Whether the publish raises or answers with an error: it is returned, and nothing is acknowledged."""
    answering, raising = Broker(), Broker()
    answering.publish_outcome = raising.publish_raises = error
    for broker in (answering, raising):
        assert await broker.copy(delivery(), retry()) is error
        assert len(broker.asked) == 1


async def test_the_error_names_the_message() -> None:
    """An id that the transport left out is filled in, one that it gave is kept."""
    for given, kept in (("", "id-1"), ("other", "other")):
        broker = Broker()
        broker.publish_outcome = PublishFailed(message_id=given)
        failed = await broker.copy(delivery(), retry())
        assert isinstance(failed, PublishFailed)
        assert failed.message_id == kept


async def test_a_client_librarys_error_is_an_unknown_outcome() -> None:
    """A transport that answers with a foreign error lets it not escape; it is the cause."""
    broker = Broker()
    broker.publish_outcome = foreign = KeyError("frame")
    failed = await broker.copy(delivery(), retry())
    assert isinstance(failed, PublishOutcomeUnknown)
    assert failed.message_id == "id-1"
    assert failed.__cause__ is foreign
    assert len(broker.asked) == 1


async def test_a_lost_acknowledgement_is_told() -> None:
    """The copy is there and the original comes back: a duplicate, never a loss, and the caller knows."""
    broker = Broker()
    broker.settle_outcome = lost = SettlementLost("the channel is gone")
    assert await broker.copy(delivery(), retry()) is lost
    assert len(broker.asked) == 2


async def test_cancelled_before_the_copy_is_confirmed_nothing_is_acknowledged() -> None:
    """A cancellation while the copy is under way passes through and leaves the original with the broker."""
    broker = Broker()
    broker.publish_raises = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await broker.copy(delivery(), retry())
    assert len(broker.asked) == 1


async def test_what_is_no_busframe_error_is_a_bug_and_passes() -> None:
    """A transport that raises something else is broken; that is not hidden, and nothing is acknowledged."""
    broker: Any = Broker()
    broker.publish_raises = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await broker.copy(delivery(), retry())
    assert len(broker.asked) == 1
