"""The table that the benchmarks print, and the bars that they hold, from figures that are known."""

from collections.abc import Iterator

import pytest

from tests.benchmarks.compare import Bar, Contender, compare


def taking(name: str, *seconds: float) -> Contender:
    """Someone who takes so long for a message: in the warm-up, and in each round."""
    each: Iterator[float] = iter((1.0, *seconds))

    async def run(messages: int) -> float:
        return messages * next(each)

    return Contender(name, run)


def test_a_ratio_is_the_median_of_the_rounds_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The machine was four times as slow in the second round, and twice in the third, for both."""
    slow, fast = taking("slow", 3, 12, 6), taking("fast", 1, 4, 2)
    assert compare("t", [slow, fast], [Bar("fast", "slow", 3)], messages=1000, rounds=3)
    printed = capsys.readouterr().out
    assert "fast / slow: 3.00, at least 3" in printed
    assert "MISSED" not in printed


def test_a_missed_bar_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and in what is returned."""
    assert not compare("t", [taking("a", 2), taking("b", 1)], [Bar("b", "a", 2.5)], messages=10, rounds=1)
    assert "b / a: 2.00, at least 2.5: MISSED" in capsys.readouterr().out
