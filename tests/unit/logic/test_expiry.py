from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.expiry import expires_at, is_expired
from busframe.logic.wire import EXPIRES_AT, parse_time
from tests.unit.logic.strategies import any_text

NOW = 1_760_000_000.0


@given(st.floats(0, 4e9), st.floats(0, 1e8), st.floats(0.001, 1e8))
def test_it_is_valid_for_its_time_after_its_delay(now: float, delay_s: float, ttl_s: float) -> None:
    """A message is valid until its delay and its time are over, to the microsecond, and not after."""
    carried = {EXPIRES_AT: expires_at(now, delay_s, ttl_s)}
    end = now + delay_s + ttl_s
    assert not is_expired(carried, end - 0.0001)
    assert is_expired(carried, end + 0.0001)


@given(st.floats(0, 4e9), st.floats(0), st.floats(0, exclude_min=True))
def test_absurdly_long_is_for_ever(now: float, delay_s: float, ttl_s: float) -> None:
    """Whatever the numbers, infinity too, the date can be written and read."""
    at = parse_time(expires_at(now, delay_s, ttl_s))
    assert at is not None
    assert at <= datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@given(any_text, st.floats(0, 4e9))
def test_nonsense_never_raises(text: str, now: float) -> None:
    """A foreign expiry is a date or nothing."""
    assert is_expired({EXPIRES_AT: text}, now) in (True, False)


def test_without_a_readable_expiry_it_is_valid_for_ever() -> None:
    """No date and no legible date expire nothing."""
    assert not is_expired({}, 9e12)
    assert not is_expired({EXPIRES_AT: "tomorrow"}, 9e12)
    assert not is_expired({EXPIRES_AT: ""}, 9e12)


def test_the_moment_itself_is_too_late() -> None:
    """A message that is valid for a second is expired when that second is over."""
    carried = {EXPIRES_AT: expires_at(NOW, 0.0, 1.0)}
    assert not is_expired(carried, NOW + 0.999)
    assert is_expired(carried, NOW + 1.0)
