"""The account finds what is lost, and what came twice without a reason."""

from pathlib import Path

import pytest

from tests.faults.account import Account, Fault, Prefetch
from tests.faults.workers import Journal

PREFETCH = 2


def account(tmp_path: Path, *lines: str, faults: tuple[Fault, ...] = ()) -> Account:
    """The account of these lines."""
    path = tmp_path / "journal"
    path.write_text("".join(f"{line}\n" for line in lines))
    return Account(Journal(path), list(faults), Prefetch(PREFETCH))


def published(*numbers: int) -> list[str]:
    """All is well with these so far."""
    return [f"{word} {n}" for n in numbers for word in ("tried", "confirmed")]


def handled(n: int, pid: int, ended: float) -> str:
    """By this worker, within a tenth of a second."""
    return f"handled {n} 1 {pid} {ended - 0.1} {ended}"


def test_all_is_well(tmp_path: Path) -> None:
    """Each confirmed message was handled once."""
    assert account(tmp_path, *published(1, 2), handled(1, 7, 1.0), handled(2, 8, 1.0)).problems() == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([*published(1, 2), handled(1, 7, 1.0)], "lost"),
        ([*published(1), handled(1, 7, 1.0), handled(2, 7, 1.1)], "never published"),
        ([*published(1), handled(1, 7, 1.0), "tried 2"], "before these were confirmed"),
        ([*published(1), handled(1, 7, 1.0), handled(1, 7, 2.0)], "without a reason"),
    ],
    ids=["lost", "unexpected", "unconfirmed", "doubled"],
)
def test_what_does_not_add_up(tmp_path: Path, lines: list[str], problem: str) -> None:
    """One finding each."""
    (found,) = account(tmp_path, *lines).problems()
    assert problem in found


def test_an_unknown_outcome_explains_one_more(tmp_path: Path) -> None:
    """It was published twice; for a third time there is no reason."""
    lines = [*published(1), "unknown 1", handled(1, 7, 1.0), handled(1, 7, 2.0)]
    assert account(tmp_path, *lines).problems() == []
    assert "without a reason: 1" in account(tmp_path, *lines, handled(1, 7, 3.0)).problems()[0]


@pytest.mark.parametrize(("killed", "explained"), [(7, True), (None, True), (9, False)])
def test_a_fault_explains_what_its_worker_held(tmp_path: Path, killed: int | None, explained: bool) -> None:
    """The last two before it, of a worker that prefetches two, and not of another one."""
    lines = [*published(1, 2, 3), *(handled(n, 7, float(n)) for n in (1, 2, 3))]
    again = [handled(2, 8, 5.0), handled(3, 8, 5.1)]
    found = account(tmp_path, *lines, *again, faults=(Fault(3.5, 3.6, killed),))
    assert found.doubled == 2
    assert (found.problems() == []) is explained


def test_a_fault_does_not_explain_what_was_settled_long_before(tmp_path: Path) -> None:
    """Two later ones were handled by the same worker before it was killed."""
    lines = [*published(1, 2, 3), *(handled(n, 7, float(n)) for n in (1, 2, 3)), handled(1, 8, 5.0)]
    assert "without a reason: 1 ([1])" in account(tmp_path, *lines, faults=(Fault(3.5, 3.6, 7),)).problems()[0]


def test_a_fault_explains_what_is_finished_after_it(tmp_path: Path) -> None:
    """The server was killed while a handler ran: its message goes to another worker."""
    lines = [*published(1), handled(1, 7, 4.0), handled(1, 8, 5.0)]
    assert account(tmp_path, *lines, faults=(Fault(3.95, 3.97),)).problems() == []
    assert account(tmp_path, *lines, faults=(Fault(4.95, 4.96, 8),)).problems() == []
    assert account(tmp_path, *lines, faults=(Fault(3.95, 3.97, 9),)).problems() != []
