from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.attempts import Verdict, failures_recorded, judge_deliveries, record_failure
from busframe.logic.wire import ATTEMPT, FIRST_FAILED_AT
from tests.unit.logic.strategies import any_text, sources

ORDER = [Verdict.CLEAR, Verdict.SUSPECT, Verdict.CRASH_LOOP]
NOW = "2026-01-02T03:04:05.000000Z"
LATER = "2026-01-02T03:05:05.000000Z"

settings = {
    "max_deliveries": st.integers(3, 90),
    "max_attempts": st.integers(1, 200),
    "attempt_exact": st.booleans(),
}


@given(sources.map(str), st.integers(1, 999_999_999), st.dictionaries(any_text, any_text, max_size=3))
def test_what_is_recorded_is_read(source: str, failures: int, carried: dict[str, str]) -> None:
    """A recorded number of failures comes back, and everything else that is carried stays as it was."""
    before = dict(carried)
    recorded = record_failure(carried, source, failures, NOW)
    assert failures_recorded(recorded, source) == failures
    assert carried == before
    assert {**recorded, **carried} == {**recorded, **{name: recorded.get(name) or carried[name] for name in carried}}
    assert set(recorded) == {*carried, ATTEMPT, FIRST_FAILED_AT}


@given(sources.map(str), sources.map(str), st.integers(1, 1000))
def test_failures_of_another_source_do_not_count(source: str, other: str, failures: int) -> None:
    """What one source recorded is nothing to another one."""
    recorded = record_failure({}, source, failures, NOW)
    assert failures_recorded(recorded, other) == (failures if other == source else 0)


@given(any_text, sources.map(str))
def test_nonsense_is_no_failure(text: str, source: str) -> None:
    """Whatever a foreign program wrote as bf-attempt is a whole number, and never an exception."""
    assert failures_recorded({ATTEMPT: text}, source) >= 0


def test_numbers_that_are_none() -> None:
    """A sign, a fraction, digits of other scripts, a giant or a missing source record nothing."""
    for count in ("", "-1", "+1", "1.0", "1_0", "x", "²", "٣", "1000000000", "9" * 5000):
        assert failures_recorded({ATTEMPT: f"{count} q"}, "q") == 0
    assert failures_recorded({ATTEMPT: "3"}, "q") == 0
    assert failures_recorded({ATTEMPT: "3  q"}, "q") == 0
    assert failures_recorded({}, "q") == 0


def test_the_first_failure_keeps_its_date() -> None:
    """Each record has the date of this source's first failure."""
    first = record_failure({}, "q", 1, NOW)
    assert first[FIRST_FAILED_AT] == NOW
    assert record_failure(first, "q", 2, LATER)[FIRST_FAILED_AT] == NOW


def test_another_sources_first_failure_is_not_taken_over() -> None:
    """A copy that came from another source begins with a date of its own."""
    foreign = record_failure({}, "other", 4, NOW)
    assert record_failure(foreign, "q", 1, LATER)[FIRST_FAILED_AT] == LATER


def test_a_lost_date_is_made_anew() -> None:
    """Failures without a date get that of the next one."""
    assert record_failure({ATTEMPT: "3 q"}, "q", 4, LATER)[FIRST_FAILED_AT] == LATER


@given(st.integers(1, 500), st.fixed_dictionaries(settings))
def test_crash_guard_is_monotone(deliveries: int, said: dict[str, int]) -> None:
    """One more delivery never makes a message less suspect."""
    now = judge_deliveries(deliveries, **said)  # type: ignore[arg-type]
    then = judge_deliveries(deliveries + 1, **said)  # type: ignore[arg-type]
    assert ORDER.index(then) >= ORDER.index(now)


@given(st.fixed_dictionaries(settings))
def test_nothing_dies_without_having_run_alone(said: dict[str, int]) -> None:
    """The first delivery beyond the limit still runs, as a suspect; only the one after it is a crash loop."""
    limit = said["max_deliveries"] if said["attempt_exact"] else max(said["max_deliveries"], said["max_attempts"] + 10)
    assert judge_deliveries(limit, **said) is Verdict.SUSPECT  # type: ignore[arg-type]
    assert judge_deliveries(limit + 1, **said) is Verdict.SUSPECT  # type: ignore[arg-type]
    assert judge_deliveries(limit + 2, **said) is Verdict.CRASH_LOOP  # type: ignore[arg-type]


@given(st.integers(1, 100), st.booleans())
def test_twenty_clean_restarts_kill_no_message(max_attempts: int, exact: bool) -> None:
    """A message that was handed back by twenty clean restarts is delivered for the 21st time, and runs."""
    for deliveries in range(1, 22):
        verdict = judge_deliveries(deliveries, 20, max_attempts=max_attempts, attempt_exact=exact)
        assert verdict is not Verdict.CRASH_LOOP


@given(st.integers(3, 90), st.integers(1, 100))
def test_half_of_the_deliveries_make_a_suspect(max_deliveries: int, max_attempts: int) -> None:
    """And never less than three: being handed back now and then is normal, and counted like a crash."""
    said = {"max_deliveries": max_deliveries, "max_attempts": max_attempts}
    suspicious = max(3, max_deliveries // 2)
    assert judge_deliveries(suspicious - 1, **said, attempt_exact=True) is Verdict.CLEAR
    assert judge_deliveries(suspicious, **said, attempt_exact=True) is Verdict.SUSPECT


@given(st.integers(1, 100), st.integers(1, 100))
def test_where_attempts_are_deliveries_a_suspect_has_more(max_deliveries: int, max_attempts: int) -> None:
    """Where each attempt is a delivery, all attempts and two more are normal."""
    said = {"max_deliveries": max_deliveries, "max_attempts": max_attempts}
    assert judge_deliveries(max_attempts + 2, **said, attempt_exact=False) is Verdict.CLEAR
    assert judge_deliveries(max_attempts + 3, **said, attempt_exact=False) is Verdict.SUSPECT
