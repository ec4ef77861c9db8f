"""What a group has committed explains what comes again, and shows what may not."""

import pytest

from tests.faults.account import Fault, Run
from tests.faults.offsets import LAG_S, SETTLED_S, Committed, Offsets

AT = 100.0
LONG_AGO = AT - LAG_S - 1


def offsets(*numbers: int) -> Offsets:
    """These messages lie one after the other in one partition."""
    found = Offsets("kafka://127.0.0.1:9", "jobs")
    found.places = {(0, offset): n for offset, n in enumerate(numbers)}
    return found


def ran(n: int, ended: float, pid: int = 7) -> Run:
    """A handler's run of a tenth of a second."""
    return Run(n, pid, ended - 0.1, ended)


@pytest.mark.parametrize(
    ("runs", "explained"),
    [
        ([ran(1, LONG_AGO), ran(2, LONG_AGO), ran(3, LONG_AGO)], set()),
        ([ran(1, LONG_AGO), ran(2, AT - 0.5), ran(3, LONG_AGO)], {2, 3}),
        ([ran(2, LONG_AGO), ran(3, LONG_AGO)], {2, 3}),
        ([ran(1, AT + SETTLED_S + 1)], set()),
    ],
    ids=["committed", "finished just before", "above an unfinished one", "long after"],
)
@pytest.mark.parametrize("stalled", [False, True])
def test_what_a_fault_explains(runs: list[Run], explained: set[int], stalled: bool) -> None:
    """Whether somebody was killed, or the server did not answer."""
    found, fault = offsets(1, 2, 3), Fault(AT, AT, over=AT + SETTLED_S)
    if stalled:
        found.stalls.append(fault)
    assert {run.n for run in Committed(found).cut_off(runs, [] if stalled else [fault])} == explained


def test_what_was_committed_is_not_begun_again() -> None:
    """Soon after, whoever has just lost a partition may not know it yet; long after, there is no reason."""
    found = offsets(1, 2)
    found.seen = [(AT, {0: 0}), (AT + 1, {0: 1})]
    again = ran(1, AT + 1 + SETTLED_S + 0.2)
    assert found.begun_too_late([ran(1, AT), ran(1, AT + 2), ran(2, AT + 99)]) == []
    assert found.begun_too_late([ran(1, AT), again]) == [1]
    found.places[1, 0] = 1  # it was published again, and that is not committed
    assert found.begun_too_late([again]) == []


def test_less_slack_finds_more() -> None:
    """Where nobody is killed, who gives a partition up knows it soon."""
    found = offsets(1)
    found.seen = [(AT, {0: 1})]
    assert found.begun_too_late([ran(1, AT + 6)]) == []
    assert found.begun_too_late([ran(1, AT + 6)], slack_s=5.0) == [1]
