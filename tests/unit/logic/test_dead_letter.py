import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busframe.logic.attempts import record_failure
from busframe.logic.dead_letter import (
    MAX_MESSAGE_BYTES,
    MAX_NAME_BYTES,
    MAX_STACK_BYTES,
    UNSTATED,
    FailureRecord,
    attempts_of,
    broker_made,
    dead_letter_headers,
    read_dead_letter,
    shrink,
)
from busframe.logic.wire import ATTEMPT, DEAD_PREFIX, EXPIRES_AT, FIRST_FAILED_AT, REPLAYS, parse_time
from tests.unit.logic.strategies import any_text, sources

FIRST = "2026-01-02T03:00:00.000000Z"
NOW = "2026-01-02T03:04:05.000000Z"

pieces = st.one_of(
    any_text,
    st.characters(exclude_categories=()),
    st.sampled_from(["\n", "\\", '"', "\x7f", "\0", "😀", "\ud83d", "\ude00", " ", "\\u0041", '"}', "ä"]),
)
long_text = st.builds(
    lambda parts, times, tail: "".join(parts) * times + tail,
    st.lists(pieces, max_size=5),
    st.sampled_from([1, 3, 100, 3000]),
    any_text,
)
texts = st.none() | any_text | long_text

records = st.builds(
    FailureRecord,
    reason=any_text | long_text,
    error_type=texts,
    error_message=texts,
    stack=texts,
    attempts=st.integers(0, 999_999_999),
    now=st.just(NOW),
    source=sources.map(str),
    handler=texts,
    host=any_text | long_text,
)
carried_text = st.dictionaries(
    st.sampled_from([ATTEMPT, FIRST_FAILED_AT, EXPIRES_AT, REPLAYS, "bf-dead-reason", "bf-dead-foreign"]),
    any_text | long_text,
)


def record(**said: object) -> FailureRecord:
    """A usual record, but for what is said."""
    values = {
        "reason": "attempts",
        "error_type": "ValueError",
        "error_message": "no",
        "stack": "Traceback\n",
        "attempts": 3,
        "now": NOW,
        "source": "t/s",
        "handler": "handle",
        "host": "host-1",
    }
    return FailureRecord(**{**values, **said})  # type: ignore[arg-type]


def normal(text: str) -> str:
    """Two surrogates that stand beside each other are one character, in JSON as everywhere."""
    joined: str = json.loads(json.dumps(text))
    return joined.strip(" ")


@given(carried_text, records)
def test_values_are_header_safe_and_small(carried: dict[str, str], failed: FailureRecord) -> None:
    """Whatever the error says and a foreign program carries, the record is printable ASCII and under 16 KiB in all."""
    made = {name: value for name, value in dead_letter_headers(carried, failed).items() if name.startswith(DEAD_PREFIX)}
    assert sum(len(name) + len(value) for name, value in made.items()) <= 16 * 1024
    for name, value in made.items():
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip() != ""
        assert len(value) <= {"bf-dead-stack": MAX_STACK_BYTES, "bf-dead-error-message": MAX_MESSAGE_BYTES}.get(
            name, MAX_NAME_BYTES
        )


@given(records)
@example(record(error_message="😀" * 1000, stack="😀" * 10_000))
@example(record(error_message="\\" * 2000, stack="\\" * 9000))
def test_what_is_built_is_read(failed: FailureRecord) -> None:
    """A text that fits is read as it was, but for blanks at its edges; of a longer one the kept part is."""
    read = read_dead_letter(dead_letter_headers({}, failed))
    assert read is not None
    for text, limit, back, from_end in (
        (failed.error_message, MAX_MESSAGE_BYTES, read.error_message, False),
        (failed.stack, MAX_STACK_BYTES, read.stack, True),
        (failed.handler, MAX_NAME_BYTES, read.handler, False),
        (failed.error_type, MAX_NAME_BYTES, read.error_type, False),
        (failed.host, MAX_NAME_BYTES, read.host, False),
        (failed.reason, MAX_NAME_BYTES, read.reason, False),
    ):
        said = normal(text or "")
        if len(text or "") <= limit and len(json.dumps(said)) - 2 <= limit:
            assert (back or "") == said or (text is failed.reason and back == UNSTATED)
        elif from_end:
            assert back is not None
            assert back.startswith("...")
            assert normal(text or "").endswith(back[3:])
        else:
            assert back is not None
            assert back.endswith("...")
            assert normal(text or "").startswith(back[:-3].strip(" "))
    assert (read.attempts, read.source, read.replays) == (failed.attempts, failed.source, 0)
    assert read.last_failed_at == parse_time(NOW)


def test_a_megabyte_of_emoji_is_cut_between_two_of_them() -> None:
    """A long text keeps its beginning, a stack its end, and no character is cut in two."""
    made = dead_letter_headers({}, record(error_message="😀" * 10**6, stack="x" * 10**6 + "\nlast line"))
    read = read_dead_letter(made)
    assert read is not None
    assert read.error_message == "😀" * ((MAX_MESSAGE_BYTES - 3) // 12) + "..."
    assert read.stack is not None
    assert read.stack.startswith("...xxx")
    assert read.stack.endswith("x\nlast line")
    assert len(made["bf-dead-stack"]) == MAX_STACK_BYTES


def test_a_text_of_exactly_the_limit_is_whole() -> None:
    """Nothing is cut that fits, and one byte more is."""
    for size, end in ((MAX_MESSAGE_BYTES, "x"), (MAX_MESSAGE_BYTES + 1, "...")):
        made = dead_letter_headers({}, record(error_message="x" * size))["bf-dead-error-message"]
        assert len(made) == MAX_MESSAGE_BYTES
        assert made.endswith(end)


def test_a_dead_letter_begins_afresh() -> None:
    """Attempts and expiry are dropped, so that a replay neither counts on nor expires; other state is kept."""
    carried = {
        ATTEMPT: "3 t/s",
        FIRST_FAILED_AT: FIRST,
        EXPIRES_AT: NOW,
        REPLAYS: "2",
        "bf-else": "x",
        "bf-dead-old": "y",
    }
    made = dead_letter_headers(carried, record())
    assert {name for name in made if not name.startswith(DEAD_PREFIX)} == {REPLAYS, "bf-else"}
    assert "bf-dead-old" not in made
    assert made["bf-dead-replays"] == "2"
    assert len(carried) == 6


def test_first_and_last_failure_are_dated() -> None:
    """A message that failed before has the date of its first failure, a first one has the same date twice."""
    carried = record_failure({}, "t/s", 2, FIRST)
    read = read_dead_letter(dead_letter_headers(carried, record(attempts=3)))
    assert read is not None
    assert (read.first_failed_at, read.last_failed_at) == (parse_time(FIRST), parse_time(NOW))
    once = read_dead_letter(dead_letter_headers({}, record(attempts=1)))
    assert once is not None
    assert once.first_failed_at == once.last_failed_at == parse_time(NOW)


def test_what_never_ran_never_failed_first() -> None:
    """An expired or filtered message has no attempts, no handler and no first failure."""
    failed = record(reason="expired", error_type=None, error_message=None, stack=None, attempts=0, handler=None)
    read = read_dead_letter(dead_letter_headers({FIRST_FAILED_AT: FIRST}, failed))
    assert read is not None
    assert (read.reason, read.attempts, read.first_failed_at) == ("expired", 0, None)
    assert (read.error_type, read.error_message, read.stack, read.handler) == (None, None, None, None)


@pytest.mark.parametrize("nonsense", ["", "x" * 20_000, "-1", "\r\n", "ä"])
def test_foreign_numbers_and_dates_are_not_taken_over(nonsense: str) -> None:
    """Illegible replays are none, an illegible first failure is this one."""
    made = dead_letter_headers({REPLAYS: nonsense, FIRST_FAILED_AT: nonsense}, record())
    assert made["bf-dead-replays"] == "0"
    assert made["bf-dead-first-failed-at"] == NOW


@pytest.mark.parametrize("reason", ["", "   "])
def test_an_empty_reason_is_still_a_dead_letter(reason: str) -> None:
    """A policy that gives no reason loses the record no more than it loses the message."""
    read = read_dead_letter(dead_letter_headers({}, record(reason=reason)))
    assert read is not None
    assert read.reason == UNSTATED


def test_it_shrinks_by_its_stack_and_then_by_its_text() -> None:
    """A record that is too large loses the stack first, then the error's text, and nothing else."""
    whole = dead_letter_headers({REPLAYS: "1"}, record())
    without_stack = shrink(whole)
    assert without_stack == {name: value for name, value in whole.items() if name != "bf-dead-stack"}
    assert without_stack is not None
    least = shrink(without_stack)
    assert least == {name: value for name, value in without_stack.items() if name != "bf-dead-error-message"}
    assert least is not None
    assert shrink(least) is None
    assert "bf-dead-stack" in whole


@given(st.dictionaries(st.sampled_from(sorted(dead_letter_headers({}, record()))), any_text))
def test_nonsense_in_a_record_never_raises(carried: dict[str, str]) -> None:
    """Any text in any field is read; without a reason it is no dead letter."""
    read = read_dead_letter(carried)
    assert (read is None) is ("bf-dead-reason" not in carried)
    assert attempts_of(carried) >= 0
    if read is not None:
        assert read.attempts == attempts_of(carried)
        assert read.replays >= 0


@pytest.mark.parametrize("text", ["plain", "ä", 'a "quoted" one', "C:\\new\\x", "broken \\u12", 'x", "y', "tab\there"])
def test_foreign_text_is_read_as_it_is(text: str) -> None:
    """A text that another program did not escape is taken literally."""
    read = read_dead_letter({"bf-dead-reason": "r", "bf-dead-error-message": text})
    assert read is not None
    assert read.error_message == text


def test_an_empty_record_has_defaults() -> None:
    """What a record does not say is empty, zero, or the beginning of time."""
    read = read_dead_letter({"bf-dead-reason": "crash-loop"})
    assert read is not None
    assert (read.reason, read.attempts, read.source, read.host, read.replays) == ("crash-loop", 0, "", "", 0)
    assert read.last_failed_at == datetime(1970, 1, 1, tzinfo=UTC)
    assert (read.first_failed_at, read.handler) == (None, None)


def test_a_brokers_own_dead_letter_has_a_record() -> None:
    """Where the broker itself gave a message up, there is no more than its reason, its source and a date."""
    read = read_dead_letter(broker_made("crash-loop", "q", NOW))
    assert read is not None
    assert (read.reason, read.source, read.host, read.attempts, read.replays) == ("crash-loop", "q", "broker", 0, 0)
    assert read.last_failed_at == parse_time(NOW)
    assert (read.error_type, read.error_message, read.stack, read.handler) == (None, None, None, None)
    assert read.first_failed_at is None


@given(st.integers(0, 999_999_999))
def test_attempts_are_read_from_the_record(attempts: int) -> None:
    """The number of attempts comes back."""
    assert attempts_of(dead_letter_headers({}, record(attempts=attempts))) == attempts
