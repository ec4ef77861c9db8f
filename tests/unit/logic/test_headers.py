from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.errors import InvalidHeader
from busframe.logic.headers import (
    MAX_FIELD,
    MAX_HEADERS,
    MAX_ID,
    MAX_TOTAL_BYTES,
    MAX_VALUE_BYTES,
    check_message,
    correlation_of,
)
from busframe.logic.wire import split_headers
from busframe.model.message import Message
from tests.unit.logic.strategies import NAME_CHARACTERS, any_text, header_text

FIELDS = ("type", "key", "correlation_id", "reply_to", "content_type")
OK = Message(b"", "id")

anything = st.one_of(any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.just(["x"]))


def with_headers(headers: Any) -> Message:
    """A message with these headers, and nothing wrong besides."""
    return replace(OK, headers=headers)


def passes(message: Message) -> bool:
    """Whether a message may be published. An error that is long, or cannot be printed, is no proper refusal."""
    try:
        check_message(message)
    except InvalidHeader as invalid:
        return len(str(invalid).encode()) > 500
    return True


@given(st.dictionaries(any_text | st.text(NAME_CHARACTERS, min_size=1), any_text | header_text, max_size=4))
def test_headers_that_pass_come_back_unchanged(headers: dict[str, str]) -> None:
    """What passes has plain names and clean values, survives UTF-8, and is read back as the application's own."""
    if not passes(with_headers(headers)):
        return
    for name, value in headers.items():
        assert set(name) <= set(NAME_CHARACTERS)
        assert value.encode().decode() == value == value.strip()
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value)
    assert split_headers(headers.items()) == ({}, {}, headers)


@given(st.dictionaries(st.text(NAME_CHARACTERS, min_size=1, max_size=12).map("h{}".format), header_text, max_size=8))
def test_clean_headers_pass(headers: Mapping[str, str]) -> None:
    """Names of letters, digits and -_. with clean values, empty ones too, are legal on every transport."""
    check_message(with_headers(headers))


@given(st.dictionaries(anything.filter(lambda name: not isinstance(name, list)), anything, max_size=3))
def test_anything_else_is_an_invalid_header(headers: dict[Any, Any]) -> None:
    """Names and values of any type pass or are InvalidHeader, never another error."""
    passes(with_headers(headers))


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "ä", "a:b", "a/b", "a\n", "x" * 129, "\ud800", "bf-attempt", "BF-x", "bf-", "x-death", "X-Death",
     "x-delivery-count", "x-acquired-count", "x-first-death-queue", "x-last-death-reason", "x-opt-enqueued-time",
     "nats-msg-id", "Nats-Expected-Stream", "CC", "BCC", 1, None, True],
)  # fmt: skip
def test_names_that_do_not_travel(name: Any) -> None:
    """Other characters, longer names, the framework's and the brokers' own are refused, in any case of letters."""
    with pytest.raises(InvalidHeader, match=r"^header .*\(message id\)$"):
        check_message(with_headers({name: "x"}))


@pytest.mark.parametrize(
    "name", ["a", "x" * 128, "0", "-", "_.-", "cc", "Bcc", "bf", "bfx-1", "x-deaths", "natsx", "traceparent"]
)
def test_names_that_travel(name: str) -> None:
    """Names that only resemble reserved ones are free."""
    check_message(with_headers({name: "x"}))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\r\nb", "control"),
        ("\0", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\x9f", "control"),
        (" a", "white space"),
        ("a ", "white space"),
        (" ", "white space"),
        ("a\u00a0", "white space"),
        ("\u2028a", "white space"),
        ("\ud800", "not valid Unicode"),
        ("\udfff\ud800", "not valid Unicode"),
        ("x" * (MAX_VALUE_BYTES + 1), "8193 bytes"),
        ("é" * (MAX_VALUE_BYTES // 2 + 1), "8194 bytes"),
        (1, "must be text, not int"),
        (None, "must be text, not NoneType"),
        (b"x", "must be text, not bytes"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_values_that_do_not_travel(value: Any, why: str) -> None:
    """Control characters, edge white space, broken Unicode, over 8 KiB and what is no text are refused."""
    with pytest.raises(InvalidHeader, match=why):
        check_message(with_headers({"x": value}))


@pytest.mark.parametrize(
    "value", ["", "a b", '"quoted"', "{}", "ä", "😀", "x" * MAX_VALUE_BYTES, "é" * (MAX_VALUE_BYTES // 2)]
)
def test_values_that_travel(value: str) -> None:
    """Empty, quoted, non-ASCII and 8 KiB of text are legal."""
    check_message(with_headers({"x": value}))


def test_at_most_64_headers() -> None:
    """The 65th is one too many."""
    check_message(with_headers({f"h{number}": "" for number in range(MAX_HEADERS)}))
    with pytest.raises(InvalidHeader, match="65 headers"):
        check_message(with_headers({f"h{number}": "" for number in range(MAX_HEADERS + 1)}))


@pytest.mark.parametrize("letter", ["x", "é"])
def test_at_most_24_kib_of_headers(letter: str) -> None:
    """Names and values count together, in bytes."""
    wide = len(letter.encode())
    full = {f"h{number}": letter * ((MAX_TOTAL_BYTES // 4 - 2) // wide) for number in range(4)}
    check_message(with_headers(full))
    with pytest.raises(InvalidHeader, match="the headers have 24577 bytes"):
        check_message(with_headers({**full, "x": ""}))


@given(st.sampled_from(FIELDS), anything)
def test_fields_are_short_printable_text(field: str, value: Any) -> None:
    """A field of a message is absent, or at most 128 printable ASCII characters."""
    message = replace(OK, **{field: value})
    clean = isinstance(value, str) and len(value) <= MAX_FIELD and value.isascii() and value.isprintable()
    assert passes(message) is (value is None or clean)


@given(anything)
def test_an_id_is_short_printable_text(value: Any) -> None:
    """An id is 1 to 100 printable ASCII characters; the error about another one can be printed."""
    clean = isinstance(value, str) and 1 <= len(value) <= MAX_ID and value.isascii() and value.isprintable()
    assert passes(replace(OK, id=value)) is clean


def test_limits_of_fields_are_exact() -> None:
    """100 characters of an id and 128 of a field pass, one more does not, and the error names the field."""
    check_message(Message(b"", "i" * 100, key="k" * 128))
    with pytest.raises(InvalidHeader, match=r"^id 'iii.*\.\.\. must be text of at most 100"):
        check_message(Message(b"", "i" * 101))
    with pytest.raises(InvalidHeader, match=r"^key 'kkk.*\.\.\. must be text of at most 128 .* \(message id\)$"):
        check_message(Message(b"", "id", key="k" * 129))


def test_an_empty_id_is_refused() -> None:
    """Nothing could tell its copies apart."""
    with pytest.raises(InvalidHeader, match="id is empty"):
        check_message(Message(b"", ""))


def test_an_invalid_id_is_shortened_in_its_error() -> None:
    """A megabyte of id, or one that cannot be encoded, is neither printed nor kept as the message's id."""
    for wrong in ("i" * 10**6, "\ud800" * 200):
        with pytest.raises(InvalidHeader) as caught:
            check_message(Message(b"", wrong))
        assert len(str(caught.value).encode()) < 200
        assert caught.value.message_id == ""


def test_the_error_names_the_message() -> None:
    """Of many messages published at once, the wrong one can be found."""
    with pytest.raises(InvalidHeader) as caught:
        check_message(with_headers({"bf-x": ""}))
    assert caught.value.message_id == "id"


def test_what_is_caused_carries_a_correlation_id_that_travels() -> None:
    """The message's own, else its id; a foreign one that no broker would take is not passed on."""
    assert correlation_of(Message(b"", "id", correlation_id="c")) == "c"
    assert correlation_of(Message(b"", "id")) == "id"
    assert correlation_of(Message(b"", "id", correlation_id="ä")) == "id"
    assert correlation_of(Message(b"", "i" * 200, correlation_id="c" * 200)) is None
