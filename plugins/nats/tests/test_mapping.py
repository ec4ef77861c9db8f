"""busframe_nats.mapping"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.errors import InvalidHeader
from busframe.model.message import Message
from busframe_nats.mapping import decode, encode, read_reply, split, status, with_schedule

AT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
FULL = Message(
    b"body",
    "id-1",
    type="Order",
    content_type="application/json",
    headers={"X-Tenant": "žluťoučký", "empty": "", "odd": "a: b"},
    key="k",
    correlation_id="c",
    reply_to="answers",
    published_at=AT,
    ttl_s=1.5,
)

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30)
values = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)


def test_everything_comes_back() -> None:
    """All fields, all headers, what the core carries."""
    carried = {"bf-attempt": "2 q", "bf-dead-stack": 'line\\nline "x" é'}
    assert decode(encode(FULL, carried, ""), b"body", "s", 1) == (FULL, carried)


@given(
    id=printable,
    key=printable | st.none(),
    headers=st.dictionaries(st.from_regex(r"h[A-Za-z0-9_.-]{0,9}", fullmatch=True), values),
)
def test_whatever_may_be_published_comes_back(id: str, key: str | None, headers: dict[str, str]) -> None:
    """Any text that the core lets through."""
    sent = Message(b"", id, key=key, headers=headers)
    assert decode(encode(sent, {}, ""), b"", "s", 1) == (sent, {})


def test_a_message_of_ours_with_what_a_server_adds_is_read_as_well() -> None:
    """After it was delayed, there are headers behind ours."""
    raw = encode(replace(FULL, headers={}), {"bf-attempt": "2 q"}, "")
    moved = raw[:-2] + b"Nats-Scheduler: bf.later.q.1\r\nNats-Schedule-Next: purge\r\n\r\n"
    without = raw.replace(b"Nats-Msg-Id: id-1\r\n", b"")
    for each in (raw, moved, without):
        assert decode(each, b"body", "s", 1) == (replace(FULL, headers={}), {"bf-attempt": "2 q"})


def test_a_message_that_says_nothing_has_none_of_it() -> None:
    """None is None, and not an empty text."""
    bare = Message(b"", "id")
    assert decode(encode(bare, {}, ""), b"", "s", 1) == (bare, {})
    assert decode(encode(replace(bare, key=""), {}, ""), b"", "s", 1)[0].key == ""


def test_the_write_is_named_by_its_key_and_the_message_by_its_id() -> None:
    """So that a copy is no duplicate."""
    raw = encode(FULL, {}, "id-1/abc")
    assert dict(split(raw))["Nats-Msg-Id"] == "id-1/abc"
    assert decode(raw, b"", "s", 1)[0].id == "id-1"
    assert dict(split(encode(FULL, {}, "")))["Nats-Msg-Id"] == "id-1"


def test_only_two_headers_are_added() -> None:
    """Each one costs the server and both clients; the application's stay native."""
    assert [name for name, _ in split(encode(FULL, {"bf-attempt": "1 q"}, ""))] == [
        "Nats-Msg-Id",
        "Bf",
        "X-Tenant",
        "empty",
        "odd",
    ]


@pytest.mark.parametrize("value", ["a\r\nX: injected", "a\nb", "a\rb"])
def test_a_line_break_never_becomes_a_header(value: str) -> None:
    """The core refuses it; a policy of one's own may carry anything."""
    with pytest.raises(InvalidHeader):
        encode(replace(FULL, headers={"h": value}), {}, "")
    with pytest.raises(InvalidHeader):
        encode(FULL, {}, value)


def test_what_is_no_unicode_is_refused() -> None:
    """A lone surrogate has no bytes."""
    with pytest.raises(InvalidHeader):
        encode(replace(FULL, headers={"h": "\ud800"}), {}, "")


def test_a_foreign_message_is_taken_as_it_is() -> None:
    """With defaults for what it does not say, and an id that stays the same."""
    raw = b"NATS/1.0\r\nA: 1\r\nA: 2\r\nNats-Msg-Id: x\r\nBad\r\nB:v\r\n\xff: n\r\n\r\n"
    found, carried = decode(raw, b"\xff", "s", 7)
    assert (found.body, dict(found.headers), carried) == (b"\xff", {"A": "1, 2", "B": "v", "�": "n"}, {})
    assert found.id == decode(None, b"", "s", 7)[0].id != decode(None, b"", "s", 8)[0].id
    assert (found.type, found.key, found.published_at, found.ttl_s) == (None, None, None, None)


@pytest.mark.parametrize(
    "packed",
    [
        "nonsense",
        "[]",
        "[" * 30_000,
        '{"id": 7, "ttl": "x", "at": "x", "key": ["a"]}',
        '{"ttl": 1e999, "at": 1e999}',
        '{"at": 99999999999999999999999999}',
        '{"at": -99999999999999999}',
        '{"at": true}',
    ],
)
def test_nonsense_in_the_packed_header_never_raises(packed: str) -> None:
    """It comes from the network."""
    found, _ = decode(f"NATS/1.0\r\nBf: {packed}\r\n\r\n".encode(), b"", "s", 1)
    assert found.id
    assert found.ttl_s is None
    assert found.published_at is None


def test_a_program_that_cannot_pack_says_the_fields_one_by_one() -> None:
    """The names that busframe has on other brokers; Go's libraries write them with capitals."""
    raw = b"NATS/1.0\r\nBf-Id: i\r\nbf-type: T\r\nbf-attempt: 1 q\r\n\r\n"
    found, carried = decode(raw, b"", "s", 1)
    assert (found.id, found.type, carried) == ("i", "T", {"bf-attempt": "1 q"})


def test_a_schedule_is_beside_all_others() -> None:
    """The server takes them off when it moves the message."""
    raw = with_schedule(encode(FULL, {}, ""), "2026-01-01T00:00:00Z", "bf.q.a.1")
    assert decode(raw, b"body", "s", 1) == (FULL, {})
    assert dict(split(raw))["Nats-Schedule"] == "@at 2026-01-01T00:00:00Z"
    assert dict(split(raw))["Nats-Schedule-Target"] == "bf.q.a.1"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"NATS/1.0 503\r\n\r\n", (503, "")),
        (b"NATS/1.0 409 Consumer Deleted\r\nNats-Pending-Messages: 3\r\n\r\n", (409, "Consumer Deleted")),
        (b"NATS/1.0\r\nA: 1\r\n\r\n", (0, "")),
        (None, (0, "")),
    ],
)
def test_a_status_is_told_from_a_message(raw: bytes | None, found: tuple[int, str]) -> None:
    """By the first line."""
    assert status(raw) == found


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.c.3.17.5.1700000000000000001.9",
        "$JS.ACK.hub.ACCHASH.S.c.3.17.5.1700000000000000001.9.random",
        "$JS.ACK.hub.ACCHASH.S.c.3.17.5.1700000000000000001.9",
    ],
)
def test_both_forms_of_the_acknowledgement_are_read(reply: str) -> None:
    """Without and with a domain (ADR-15)."""
    assert read_reply(reply.encode()) == (3, 17, "17.1700000000000000001")


def test_nonsense_is_a_first_delivery() -> None:
    """Rather than an exception in the reader."""
    assert read_reply(b"nonsense") == (1, 0, "")
