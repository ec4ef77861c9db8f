import copy
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busframe.errors import ConfigurationError
from busframe.logic.retry import (
    ASSUMED_MAX_ATTEMPTS,
    AsksRetry,
    Failure,
    Retry,
    longest_delay_s,
    most_attempts,
)
from busframe.model.settlement import DeadLetter, Nack

MOST = 10**9
BIGGEST = 1.7976931348623157e308

seconds = st.one_of(
    st.floats(0, BIGGEST), st.integers(0, 10**6), st.sampled_from([0, 0.0, 5e-324, 1e308, BIGGEST, int(BIGGEST)])
)
factors = st.one_of(st.floats(1, BIGGEST), st.integers(1, 10**6), st.sampled_from([1, 2, 1.0000001, BIGGEST]))
attempts = st.one_of(st.integers(1, 2000), st.integers(1, MOST), st.just(MOST))
randoms = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Retry,
    max_attempts=st.integers(1, MOST),
    delay_s=seconds,
    factor=factors,
    max_delay_s=seconds,
    jitter=seconds,
    max_age_s=st.none() | st.floats(0, exclude_min=True),
)


def failure(error: Exception | None = None, attempt: int = 1, age_s: float = 0.0, random: float = 0.0) -> Failure:
    """A failure of which only what matters is said."""
    return Failure(error or ValueError(), attempt, age_s, random)


@given(policies, attempts, randoms)
def test_delay_is_finite_and_within_its_bounds(policy: Retry, attempt: int, random: float) -> None:
    """Any legal numbers give a finite delay between zero and the longest one with its jitter, at any attempt."""
    delay = policy.delay_after(attempt, random)
    assert 0 <= delay <= BIGGEST
    assert delay <= policy.max_delay_s or delay <= policy.max_delay_s * (1 + policy.jitter * random)


@given(policies, attempts, randoms)
def test_jitter_never_shortens(policy: Retry, attempt: int, random: float) -> None:
    """Jitter lengthens a delay or leaves it."""
    assert policy.delay_after(attempt, random) >= policy.delay_after(attempt, 0.0)


@given(policies, attempts)
def test_delays_never_get_shorter(policy: Retry, attempt: int) -> None:
    """A later attempt waits at least as long as the one before it."""
    assert policy.delay_after(attempt + 1, 0.0) >= policy.delay_after(attempt, 0.0)


@given(st.floats(0.001, 1000), st.floats(1, 10), st.floats(0.001, 10_000), st.integers(1, 60), st.floats(0, 2), randoms)
def test_delay_is_the_formula(
    delay_s: float, factor: float, max_delay_s: float, attempt: int, jitter: float, random: float
) -> None:
    """The delay is min(max_delay_s, delay_s · factorⁿ⁻¹) · (1 + jitter · random)."""
    policy = Retry(delay_s=delay_s, factor=factor, max_delay_s=max_delay_s, jitter=jitter)
    expected = min(max_delay_s, delay_s * factor ** (attempt - 1)) * (1 + jitter * random)
    assert policy.delay_after(attempt, random) == pytest.approx(expected)


def test_factor_that_is_no_whole_number() -> None:
    """A factor of 1.5 is 1.5 at every step, not 1 and not 2."""
    policy = Retry(delay_s=1.0, factor=1.5, jitter=0.0)
    assert [policy.delay_after(attempt, 0.0) for attempt in (1, 2, 3)] == [1.0, 1.5, 2.25]


@pytest.mark.parametrize("delay_s", [0, 1, 0.5])
def test_whole_number_factor_does_not_grow_without_bound(delay_s: float) -> None:
    """A factor written as a whole number costs no more at the billionth attempt than one that is a float."""
    policy = Retry(max_attempts=MOST, delay_s=delay_s, factor=3, max_delay_s=60, jitter=0)
    assert policy.delay_after(MOST, 0.0) == (60 if delay_s else 0)
    assert policy.longest_delay_s == (60 if delay_s else 0)


@given(policies, attempts, randoms, st.floats(0, 1e12))
def test_same_failure_gets_the_same_answer(policy: Retry, attempt: int, random: float, age_s: float) -> None:
    """The policy remembers nothing."""
    failed = failure(None, attempt, age_s, random)
    assert policy(failed) == policy(failed)


@given(policies, attempts)
def test_attempts_are_bounded(policy: Retry, attempt: int) -> None:
    """From the last attempt on there is no retry, and before it there is one."""
    answer = policy(failure(attempt=attempt))
    if attempt >= policy.max_attempts:
        assert answer == DeadLetter("attempts", f"failed {attempt} times")
    else:
        assert isinstance(answer, Nack)


def test_too_old_a_message_is_given_up() -> None:
    """A message published max_age_s ago is gave-up though it has attempts left, a younger one is retried."""
    policy = Retry(max_age_s=60.0)
    assert isinstance(policy(failure(age_s=59.9)), Nack)
    assert policy(failure(age_s=60.0)) == DeadLetter("gave-up", "published 60 s ago")


class Base(Exception):
    pass


class Middle(Base):
    pass


class Other(Exception):
    pass


class Leaf(Middle, Other):
    pass


MRO = [Leaf, Middle, Base, Other, Exception]


@given(st.dictionaries(st.sampled_from(MRO), st.booleans()))
@example({Middle: True, Other: False})
def test_nearest_class_wins(said: dict[type[Exception], bool]) -> None:
    """Of the rules and give_up_on the class nearest to the error's own decides, by its resolution order."""
    policy = Retry(
        delay_s=1.0,
        jitter=0.0,
        give_up_on=tuple(kind for kind, give_up in said.items() if give_up),
        rules={
            kind: Retry(delay_s=10.0 + MRO.index(kind), jitter=0.0) for kind, give_up in said.items() if not give_up
        },
    )
    answer = policy(failure(Leaf()))
    nearest = next((kind for kind in MRO if kind in said), None)
    if nearest is None:
        assert answer == Nack(1.0)
    elif said[nearest]:
        assert answer == DeadLetter("gave-up", f"{nearest.__name__} is not worth a retry")
    else:
        assert answer == Nack(10.0 + MRO.index(nearest))


class Later(AsksRetry):
    pass


def test_who_asks_for_a_retry_is_not_meant_by_what_is_said_of_all() -> None:
    """`give_up_on=(Exception,)` with rules for the rest leaves RetryAfter alone; naming its own class does not."""
    assert isinstance(Retry(give_up_on=(Exception,))(failure(Later())), Nack)
    assert Retry(give_up_on=(Exception,), max_attempts=2)(failure(Later(), attempt=2)).reason == "attempts"  # type: ignore[union-attr]
    assert Retry(give_up_on=(Later,))(failure(Later())) == DeadLetter("gave-up", "Later is not worth a retry")


def test_a_rule_is_a_whole_policy() -> None:
    """A rule decides with its own attempts and its own rules; nothing of the outer policy is left."""
    inner = Retry(max_attempts=2, rules={Leaf: Retry(max_attempts=9)})
    policy = Retry(max_attempts=7, max_age_s=1.0, rules={Base: inner})
    assert isinstance(policy(failure(Base(), attempt=1, age_s=100)), Nack)
    assert isinstance(policy(failure(Base(), attempt=2)), DeadLetter)
    assert isinstance(policy(failure(Leaf(), attempt=8)), Nack)


@given(policies, st.lists(policies, max_size=2), st.data())
def test_longest_delay_is_never_exceeded(own: Retry, rules: list[Retry], data: st.DataObject) -> None:
    """No answer of a policy or its rules waits longer than longest_delay_s, nor tries more than most_attempts."""
    policy = Retry(
        max_attempts=own.max_attempts,
        delay_s=own.delay_s,
        factor=own.factor,
        max_delay_s=own.max_delay_s,
        jitter=own.jitter,
        rules=dict(zip([Base, Other], rules, strict=False)),
    )
    attempt = data.draw(st.integers(1, max(1, policy.most_attempts)))
    for error in (ValueError(), Base(), Other()):
        answer = policy(failure(error, attempt, random=data.draw(randoms)))
        assert isinstance(answer, DeadLetter) or answer.delay_s <= policy.longest_delay_s
        assert isinstance(policy(failure(error, policy.most_attempts)), DeadLetter)


def test_longest_delay_of_one_attempt_is_none_at_all() -> None:
    """A policy without retries never waits."""
    assert Retry(max_attempts=1, delay_s=10.0).longest_delay_s == 0.0


def test_longest_delay_includes_jitter() -> None:
    """The longest delay is the last one, lengthened by the whole jitter."""
    assert Retry(max_attempts=4, delay_s=1.0, factor=2.0, jitter=0.5).longest_delay_s == 6.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"delay_s": -0.1},
        {"delay_s": float("nan")},
        {"delay_s": float("inf")},
        {"delay_s": 10**400},
        {"factor": 0.9},
        {"factor": float("inf")},
        {"factor": 10**400},
        {"max_delay_s": -1.0},
        {"max_delay_s": float("inf")},
        {"max_delay_s": 10**400},
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"max_age_s": 0.0},
        {"max_age_s": float("nan")},
        {"give_up_on": ValueError},
        {"give_up_on": (ValueError(),)},
        {"give_up_on": (KeyboardInterrupt,)},
        {"rules": {"ValueError": Retry()}},
    ],
    ids=lambda wrong: next(f"{name}={str(value)[:20]}" for name, value in wrong.items()),
)
def test_what_is_out_of_range_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    """A number out of its range, or a forgotten comma, is a ConfigurationError that names the argument."""
    with pytest.raises(ConfigurationError, match=f"^Retry: {next(iter(wrong))} must be "):
        Retry(**wrong)


def test_all_problems_are_told_together() -> None:
    """Two wrong numbers are two problems of one error."""
    with pytest.raises(ConfigurationError) as caught:
        Retry(max_attempts=0, factor=0.5)
    assert len(caught.value.problems) == 2


def test_a_policy_is_a_value() -> None:
    """Equal policies are equal, hash alike, and can be copied and pickled."""
    policy = Retry(max_attempts=3, give_up_on=(ValueError,), rules={OSError: Retry()})
    same = Retry(max_attempts=3, give_up_on=(ValueError,), rules={OSError: Retry()})
    assert policy == same
    assert hash(policy) == hash(same)
    assert copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_what_a_policy_says_of_itself_is_believed() -> None:
    """Attempts and delays are those that a policy states, over its rules."""
    policy = Retry(max_attempts=3, rules={OSError: Retry(max_attempts=30, delay_s=7.0, factor=1.0, jitter=0.0)})
    assert most_attempts(policy) == 30
    assert longest_delay_s(policy) == policy.longest_delay_s == 7.0


def test_a_policy_of_ones_own_may_say_nothing() -> None:
    """A plain function counts as a hundred attempts and as delays of unknown length, unless it has attributes."""

    class Own:
        max_attempts: int | None = None
        longest_delay_s: float | None = None

        def __call__(self, failure: Failure) -> Nack:
            return Nack()

    own = Own()
    assert own(failure()) == Nack()
    assert most_attempts(own) == ASSUMED_MAX_ATTEMPTS
    assert longest_delay_s(own) is None
    own.max_attempts, own.longest_delay_s = 12, 3
    assert most_attempts(own) == 12
    assert longest_delay_s(own) == 3.0
