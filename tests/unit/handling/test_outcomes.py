import copy
import pickle
from math import inf, nan
from typing import Any

import pytest

from busframe import Discard, PauseSource, Reject, RetryAfter


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (RetryAfter(5), "retry after 5 s"),
        (RetryAfter(5, "later"), "later"),
        (PauseSource(1.5), "pause for 1.5 s"),
        (PauseSource(1.5, "down"), "down"),
        (Reject(), "rejected"),
        (Reject("broken"), "broken"),
        (Discard(), "discarded"),
        (Discard("old"), "old"),
    ],
)
def test_an_outcome_says_why_also_from_another_process(outcome: Exception, text: str) -> None:
    """A reason is the text; copied and pickled it is the same, as a pool of processes needs."""
    for same in (outcome, copy.copy(outcome), pickle.loads(pickle.dumps(outcome))):
        assert type(same) is type(outcome)
        assert str(same) == text
        assert vars(same) == vars(outcome)


@pytest.mark.parametrize("kind", [RetryAfter, PauseSource])
def test_a_delay_is_a_finite_number(kind: Any) -> None:
    """A negative delay is none; one without end would hide the message for ever."""
    assert kind(-1).delay_s == 0
    for wrong in (inf, nan):
        with pytest.raises(ValueError, match="may not wait for ever"):
            kind(wrong)
    with pytest.raises(TypeError):
        kind("5")
