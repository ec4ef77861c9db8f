"""busframe_kafka.mapping"""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from busframe.model.message import Message
from busframe_kafka.mapping import (
    decode,
    decode_letter,
    encode,
    position_of,
    read_waiting,
    waiting,
    wire_bytes,
    without_waiting,
)

FULL = Message(
    b"\x00\xff", "id-1", "order.created", "application/json", {"a": "ä", "Empty": ""}, "key-1", "c-1", "answers",
    datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), 1.5,
)  # fmt: skip
CARRIED = {"bf-attempt": "2 q", "bf-expires-at": "2026-01-02T03:04:06.678901Z"}


def _back(message: Message, carried: dict[str, str], **more: Any) -> tuple[Message, Any]:
    key = message.key.encode() if message.key is not None else None
    return decode(message.body, key, encode(message, carried).items(), "t/0/1", 5, **more)


def test_a_message_survives() -> None:
    """With everything that it has, and what it carries."""
    assert _back(FULL, CARRIED) == (FULL, CARRIED)


def test_a_bare_message_survives() -> None:
    """What is not said stays unsaid."""
    message, carried = _back(Message(b"", "id-1"), {})
    assert message == Message(b"", "id-1")
    assert not carried


def test_times_of_other_zones_survive() -> None:
    """As the same moment."""
    at = datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    message, _ = _back(Message(b"", "id-1", published_at=at), {})
    assert message.published_at == at


def test_headers_cannot_be_changed_by_who_gets_them() -> None:
    """A copy for a retry is made of the same message."""
    message, _ = _back(FULL, {})
    with pytest.raises(TypeError):
        message.headers["a"] = "b"  # type: ignore[index]


def test_a_letter_keeps_the_messages_key() -> None:
    """Its record's key names the letter."""
    carried = {"bf-dead-reason": "rejected", "bf-dead-attempts": "2"}
    message, kept = decode_letter(b"x", encode(FULL, carried, letter=True).items(), "t/0/1", 5)
    assert (message.key, kept) == ("key-1", carried)
    assert message.dead is not None
    assert (message.dead.reason, message.dead.attempts) == ("rejected", 2)


def test_foreign_messages_have_defaults() -> None:
    """An id that is the same at each delivery; headers as their text."""
    message, _ = decode(b"", None, None, "t/0/1", 5)
    assert message.published_at == datetime.fromtimestamp(0.005, UTC)
    headers = [("a", b"1"), ("a", b"2"), ("bad", b"\xff"), ("none", None), ("Bf-Type", b"t"), ("x-death", b"z")]
    message, carried = decode(None, b"\xffk", headers, "t/0/1", -1)
    again, _ = decode(None, b"\xffk", headers, "t/0/1", -1)
    other, _ = decode(None, b"\xffk", headers, "t/0/2", -1)
    assert message == again
    assert message.id != other.id
    assert (message.body, message.key, message.type, message.published_at) == (b"", "\ufffdk", "t", None)
    assert dict(message.headers) == {"a": "2", "bad": "\ufffd", "none": ""}
    assert not carried


@pytest.mark.parametrize("ttl", [b"x", b"nan", b"inf", b"-1", b"0"])
def test_nonsense_in_a_field_is_not_said(ttl: bytes) -> None:
    """Foreign nonsense holds nothing up."""
    message, _ = decode(b"", None, [("bf-ttl", ttl), ("bf-published-at", b"x")], "t/0/1", 10**18)
    assert (message.ttl_s, message.published_at) == (None, None)


def test_a_topic_that_was_made_anew_has_other_positions() -> None:
    """By them a worker knows what it has handled: another message at the same offset is not that one."""
    assert position_of("t", 0, 1, 5) == position_of("t", 0, 1, 5)
    assert position_of("t", 0, 1, 5) != position_of("t", 0, 1, 6)
    assert len({position_of("t", 0, 1, 5), position_of("u", 0, 1, 5), position_of("t", 1, 1, 5)}) == 3


def test_what_waits_knows_where_to_and_shows_it_nobody() -> None:
    """The headers of the ladder are read, replaced and taken off, and are neither carried nor the application's."""
    headers = waiting(waiting([*encode(FULL, CARRIED).items()], "elsewhere", 1.0), "emails", 1234.567)
    assert read_waiting(headers) == ("emails", 1234.567)
    assert decode(FULL.body, b"key-1", headers, "t/0/1", 5) == (FULL, CARRIED)
    assert dict(without_waiting(headers)) == encode(FULL, CARRIED)
    assert read_waiting(None) == (None, 0.0)


def test_sizes_are_rather_too_large() -> None:
    """A record's bytes are all counted, with something for its batch."""
    headers = encode(FULL, CARRIED)
    least = 2 + 5 + sum(len(name) + len(value or b"") for name, value in headers.items())
    assert wire_bytes(headers, b"key-1", FULL.body) == wire_bytes([*headers.items()], b"key-1", FULL.body)
    assert wire_bytes(headers, b"key-1", FULL.body) >= least + 70
