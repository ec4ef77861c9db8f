from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.wire import (
    FIELDS,
    PREFIX,
    format_time,
    from_timestamp,
    is_brokers_own,
    parse_time,
    split_headers,
    text_of,
)
from tests.unit.logic.strategies import any_text

zones = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
times = st.datetimes(timezones=zones)
scalars = st.one_of(
    any_text,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(),
    st.decimals(),
    times,
    st.complex_numbers(),
)
foreign = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(any_text, inner), max_leaves=4
)


class Level(IntEnum):
    HIGH = 3


class Long(int):
    """As pika makes them."""

    def __repr__(self) -> str:
        return f"{int(self)}L"

    __str__ = __repr__


class Broken:
    def __str__(self) -> str:
        raise LookupError("no text")


def endless() -> list[Any]:
    """A list that contains itself."""
    inner: list[Any] = []
    inner.append(inner)
    return inner


@given(foreign)
def test_every_value_has_a_text(value: object) -> None:
    """Whatever a foreign program sent becomes text that can be encoded, the same at each delivery."""
    text = text_of(value)
    assert type(text) is str
    text.encode()
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("ä 😀", "ä 😀"),
        ("\ud800", "\ufffd" * 3),
        ("", ""),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (Long(3), "3"),
        (Level.HIGH, "3"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (Decimal("1.50"), "1.50"),
        (b"bytes", "bytes"),
        (bytearray(b"\xc3\xa4"), "ä"),
        pytest.param(memoryview(b"view"), "view", id="memoryview"),
        (b"\xff", "\ufffd"),
        (datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T22:00:00.000000Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, True, "x"], "1, true, x"),
        ((), ""),
        ({"a": [1, None]}, "a=1, "),
        (OrderedDict(z=1, a=b"2"), "z=1, a=2"),
        ([{"time": datetime(1, 1, 1)}], "time=0001-01-01T00:00:00.000000Z"),
        (Broken(), "<Broken>"),
        ([Broken()], "<list>"),
        (endless(), "<list>"),
        (10**5000, "<int>"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "<datetime>"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, list | dict | Broken | int) else repr(value)[:20],
)
def test_canonical_text(value: object, text: str) -> None:
    """Each type has one text, and what has none at all has its type's name."""
    assert text_of(value) == text


@given(times)
def test_times_round_trip(at: datetime) -> None:
    """A time that is written is read as the same moment, in UTC; one without a zone is UTC."""
    expected = at if at.tzinfo else at.replace(tzinfo=UTC)
    try:
        text = format_time(at)
    except OverflowError:
        assert at.year in (1, 9999)
        return
    read = parse_time(text)
    assert read == expected
    assert read is not None
    assert read.tzinfo is UTC
    assert len(text) == len("2026-01-02T03:04:05.000006Z")
    assert text.endswith("Z")


@given(st.datetimes(), st.datetimes())
def test_texts_of_times_sort_as_the_times(one: datetime, other: datetime) -> None:
    """An older time is the smaller text."""
    assert (format_time(one) < format_time(other)) is (one < other)


@given(any_text | times.map(str) | times.map(datetime.isoformat))
def test_any_text_is_a_time_or_none(text: str) -> None:
    """Nonsense is no time and never raises."""
    read = parse_time(text)
    assert read is None or read.tzinfo is UTC


@pytest.mark.parametrize(
    "text", [None, "", "x", "2026-13-01", "2026-01-01T25:00", "0001-01-01T00:00:00+01:00", "1-01-01", "\ud800"]
)
def test_what_is_no_time(text: str | None) -> None:
    """Nothing, nonsense and moments outside the calendar are None."""
    assert parse_time(text) is None


def test_foreign_times_are_read() -> None:
    """Any ISO 8601 time is understood, one without a zone as UTC."""
    assert parse_time("2026-01-02") == datetime(2026, 1, 2, tzinfo=UTC)
    assert parse_time("2026-01-02T03:04:05+02:00") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert parse_time("20260102T030405Z") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(st.floats(0, 4e9))
def test_seconds_become_a_time_in_utc(seconds: float) -> None:
    """A clock's seconds are the same moment as a time, to the microsecond."""
    at = from_timestamp(seconds)
    assert at.tzinfo is UTC
    assert at.timestamp() == pytest.approx(seconds, abs=1e-6)


stored_names = st.one_of(
    any_text,
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from(
        ["bf-attempt", "bf-dead-reason", "bf-", "Bf-Id", "BF-ATTEMPT", "x-death", "Nats-Msg-Id", "CC", "cc"]
    ),
)


@given(st.lists(st.tuples(stored_names, any_text), max_size=8))
def test_headers_are_told_apart(stored: list[tuple[str, str]]) -> None:
    """Each stored header is a field, carried, the application's own or the broker's, never two, and none is altered."""
    fields, carried, own = split_headers(stored)
    assert set(fields) <= FIELDS
    assert all(name.startswith(PREFIX) and name not in FIELDS for name in carried)
    assert not any(name.lower().startswith(PREFIX) or is_brokers_own(name) for name in own)
    last = dict(stored)
    assert own == {
        name: value for name, value in last.items() if not name.lower().startswith(PREFIX) and not is_brokers_own(name)
    }
    framework = {name.lower(): value for name, value in stored if name.lower().startswith(PREFIX)}
    assert {**fields, **carried} == framework


def test_case_of_the_frameworks_names_does_not_count() -> None:
    """A library that writes Bf-Attempt neither loses attempts nor shows them to the application."""
    assert split_headers([("Bf-Id", "1"), ("BF-Attempt", "2 q"), ("X-Own", "3")]) == (
        {"bf-id": "1"},
        {"bf-attempt": "2 q"},
        {"X-Own": "3"},
    )


@pytest.mark.parametrize(
    "name", ["x-death", "X-Death", "x-delivery-count", "x-first-death-queue", "Nats-Msg-Id", "x-opt-y", "CC", "BCC"]
)
def test_brokers_own_headers_are_in_none(name: str) -> None:
    """What a broker writes itself is never shown."""
    assert split_headers([(name, "1")]) == ({}, {}, {})
