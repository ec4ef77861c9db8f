"""busframe_rabbitmq.mapping"""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.errors import InvalidHeader
from busframe.logic.dead_letter import read_dead_letter
from busframe.model.message import Message
from busframe_rabbitmq.mapping import decode, decode_letter, encode, letter_carried, letter_position

FIELD = st.none() | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=128)
NAME = st.from_regex(r"[A-Za-z0-9_.-]{1,60}", fullmatch=True).filter(
    lambda name: not name.lower().startswith(("bf-", "x-", "nats-"))
)
VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TIMES = st.datetimes(
    datetime(1970, 1, 1), datetime(2900, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])
)
MESSAGES = st.builds(
    Message,
    st.binary(max_size=50),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100),
    FIELD,
    FIELD,
    st.dictionaries(NAME, VALUE, max_size=5),
    FIELD,
    FIELD,
    FIELD,
    st.none() | TIMES,
    st.none() | st.floats(0.001, 1e9),
)
CARRIED = st.dictionaries(
    st.sampled_from(["bf-attempt", "bf-expires-at", "bf-dead-reason", "bf-new"]), VALUE, max_size=3
)


def of_pika(encoded: bytes) -> Any:
    """What pika reads of an encoded property list."""
    return pika.BasicProperties().decode(encoded)


@given(MESSAGES, CARRIED)
def test_a_message_survives_the_wire(message: Message, carried: dict[str, str]) -> None:
    """Every field, header and carried header arrives as it was sent; pika encodes the same bytes."""
    encoded = encode(message, carried)
    properties = of_pika(encoded)
    assert decode(properties, message.body) == (message, carried, 1)
    assert b"".join(properties.encode()) == encoded
    assert properties.delivery_mode == 2
    assert properties.expiration is None


TYPED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=20) | st.binary(max_size=20) | TIMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.text(max_size=30), TYPED, max_size=4),
    st.none() | st.integers(0, 2**64 - 1),
    st.binary(max_size=20),
)
def test_whatever_a_foreign_program_sends_is_delivered(
    headers: dict[str, Any], timestamp: int | None, body: bytes
) -> None:
    """Typed headers and nonsense are text, never an exception; the same message always has the same id."""
    sent = pika.BasicProperties(headers=headers, timestamp=timestamp)
    properties = of_pika(b"".join(sent.encode()))
    message, carried, deliveries = decode(properties, body)
    assert message.body == body
    assert deliveries >= 1
    assert all(isinstance(text, str) for pair in [*message.headers.items(), *carried.items()] for text in pair)
    properties.headers = {**(properties.headers or {}), "x-delivery-count": 3}
    again, _, deliveries = decode(properties, body, redelivered=True)
    assert again.id == message.id
    assert deliveries == 4


def test_what_a_foreign_program_sends_typed_is_its_text() -> None:
    """Integers without pika's suffix, booleans, times, bytes, nothing."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    sent = pika.BasicProperties(headers={"i": 2**40, "b": True, "t": at, "n": None, "y": b"\xff", "l": [1, "a"]})
    message, _, _ = decode(of_pika(b"".join(sent.encode())), b"")
    assert message.headers == {
        "i": "1099511627776", "b": "true", "t": "2026-01-02T03:04:05.000000Z", "n": "", "y": "�", "l": "1, a",
    }  # fmt: skip


def test_a_foreign_message_has_defaults() -> None:
    """Nothing said: an id made of the content, and no more."""
    message, carried, deliveries = decode(of_pika(b"".join(pika.BasicProperties().encode())), b"body")
    assert message == Message(b"body", message.id)
    assert message.id.startswith("foreign-")
    assert (carried, deliveries) == ({}, 1)
    other, _, _ = decode(of_pika(b"".join(pika.BasicProperties(type="x").encode())), b"body")
    assert other.id != message.id


def test_received_headers_cannot_be_changed() -> None:
    """A handler that did would change what its retry and its dead letter are copied from."""
    message, _, _ = decode(pika.BasicProperties(headers={"tenant": "a"}), b"")
    with pytest.raises(TypeError):
        message.headers["tenant"] = "b"  # type: ignore[index]


def test_whole_seconds_stand_for_a_missing_exact_time() -> None:
    """A foreign program's timestamp is the time of publishing; milliseconds, which overflow, are none."""
    message, _, _ = decode(of_pika(b"".join(pika.BasicProperties(timestamp=1_700_000_000).encode())), b"")
    assert message.published_at == datetime.fromtimestamp(1_700_000_000, UTC)
    message, _, _ = decode(of_pika(b"".join(pika.BasicProperties(timestamp=2**63).encode())), b"")
    assert message.published_at is None


@pytest.mark.parametrize(
    ("headers", "redelivered", "deliveries"),
    [
        (None, False, 1),
        (None, True, 2),
        ({"x-delivery-count": 4}, True, 5),
        ({"x-delivery-count": 1, "x-acquired-count": 7}, True, 8),
        ({"x-delivery-count": "nonsense"}, True, 2),
    ],
)
def test_deliveries_are_the_brokers_count(headers: Any, redelivered: bool, deliveries: int) -> None:
    """One more than the count of earlier ones; at least two where the broker says redelivered."""
    assert decode(pika.BasicProperties(headers=headers), b"", redelivered)[2] == deliveries


@pytest.mark.parametrize(
    "message",
    [
        Message(b"", "i" * 256),
        Message(b"", "i", type="t" * 256),
        Message(b"", "i", headers={"n" * 256: "v"}),
        Message(b"", "i", headers={"n": "\ud800"}),
        Message(b"", "i", headers={"n": 3}),  # type: ignore[dict-item]
    ],
)
def test_what_does_not_fit_into_amqp_is_refused(message: Message) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidHeader):
        encode(message, {})


def death(queue: str, reason: str) -> dict[str, Any]:
    """An entry of x-death."""
    return {"queue": queue, "reason": reason, "count": 1, "time": datetime(2026, 1, 1, tzinfo=UTC), "exchange": ""}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("delivery_limit", "crash-loop"), ("expired", "expired"), ("rejected", "rejected"), ("new", "new")],
)
def test_letters_that_the_broker_made_have_a_record(reason: str, expected: str) -> None:
    """The core sees them as it sees its own; attempts and expiry are gone, so that a replay begins afresh."""
    headers = {
        "x-death": [death("bf--delay-03", "expired"), death("q", reason)],
        "bf-attempt": "2 q",
        "bf-expires-at": "x",
    }
    properties = pika.BasicProperties(headers=headers, message_id="i")
    message, carried, _ = decode_letter(properties, b"b", False, "q", "q")
    assert message.dead is not None
    assert (message.dead.reason, message.dead.source, message.dead.attempts) == (expected, "q", 0)
    assert message.dead.last_failed_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert read_dead_letter(carried) == message.dead
    assert not {"bf-attempt", "bf-expires-at"} & set(carried)


def test_letters_of_the_core_keep_their_record() -> None:
    """That a retry came out of the delay queues is no reason."""
    properties = pika.BasicProperties(headers={"x-death": [death("bf--delay-03", "expired")]})
    assert letter_carried({"bf-dead-reason": "rejected"}, properties, "q", "q") == {"bf-dead-reason": "rejected"}
    assert letter_carried({}, properties, "q", "q") == {}


def test_letters_of_two_failures_have_two_positions() -> None:
    """The same at each look, another one for another record or body."""
    message = Message(b"b", "i")
    assert letter_position(message, {"a": "1"}) == letter_position(message, {"a": "1"})
    assert letter_position(message, {"a": "1"}) != letter_position(message, {"a": "2"})
    assert letter_position(message, {}) != letter_position(Message(b"c", "i"), {})
