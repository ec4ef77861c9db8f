"""The kit as a class of pytest tests."""

import asyncio
from collections.abc import Iterator
from typing import ClassVar

import pytest

from busframe.conformance.check import Check, Result, run_check
from busframe.conformance.harness import Harness
from busframe.conformance.runner import select


class TransportConformance:
    """Every check but those of tier S as a test of its own.

    Inherit from it in a class whose name begins with ``Test``, and make a harness.

    ```python
    class TestFiles(TransportConformance):
        not_runnable = {"M1", "M2"}

        @classmethod
        def make_harness(cls) -> Harness:
            return FilesHarness()
    ```

    Where the harness needs a server that another fixture starts, override the fixture ``harness`` with one that yields
    from ``started(…)``. Each check runs on an event loop of its own, so a harness keeps nothing that belongs to a loop.

    Attributes:
        not_runnable: the checks that this harness cannot run, because its broker has no such fault. They are skipped;
            any other that turns out not to be runnable fails, and so does one of these that could run: no skip hides
            something.
        in_part: the checks of which this harness cannot run a part; in the same way to be exactly these.
        not_claimed: the checks of what the transport does not claim, if they are to be exactly these; None: any.
    """

    not_runnable: ClassVar[frozenset[str] | set[str]] = frozenset()
    in_part: ClassVar[frozenset[str] | set[str]] = frozenset()
    not_claimed: ClassVar[frozenset[str] | set[str] | None] = None

    @classmethod
    def outcome_of(cls, check: Check) -> str:
        """How a check ends for this class, when its tests pass and ``not_claimed`` is said; for a page of it."""
        if check.id in cls.not_runnable:
            return "not runnable"
        if check.id in cls.in_part:
            return "passed in part"
        return "not claimed" if check.id in (cls.not_claimed or ()) else "passed"

    @classmethod
    def make_harness(cls) -> Harness:
        """A harness for this class's tests."""
        raise NotImplementedError(f"{cls.__name__} has to make a harness")

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls) -> Iterator[Harness]:
        """The harness, started once for the class."""
        yield from started(cls.make_harness())

    @pytest.mark.parametrize("check", select(), ids=lambda check: check.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise, or refuses what it does not claim."""
        result: Result = asyncio.run(run_check(check, harness))
        if self.not_claimed is not None and (result.outcome == "not claimed") != (check.id in self.not_claimed):
            pytest.fail(f"{check.id} is {result.outcome}, which is not what not_claimed says", pytrace=False)
        listed = check.id in self.not_runnable
        if result.outcome == "not runnable":
            if not listed:
                pytest.fail(f"{check.id} is not runnable here: {result.detail}", pytrace=False)
            pytest.skip(result.detail)
        if result.outcome == "failed":
            pytest.fail(f"{check.id}: {check.says}\n{result.detail}", pytrace=False)
        if bool(result.left_out) != (check.id in self.in_part):
            what = "; ".join(result.left_out) or "nothing"
            pytest.fail(f"{check.id} left out {what}, which is not what in_part says", pytrace=False)
        if listed:
            pytest.fail(f"{check.id} is listed as not runnable, and it ran: take it off the list", pytrace=False)


class SoakConformance(TransportConformance):
    """The checks of tier S, in the same way.

    The harness says for how long (``soak_s``) and what happens meanwhile (``seed``); pytest's own time-out, if there is
    one, has to be longer.
    """

    @pytest.mark.parametrize("check", select(tiers=("S",)), ids=lambda check: check.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise, for long."""
        super().test_check(check, harness)


def started(harness: Harness) -> Iterator[Harness]:
    """A harness between its start and its stop."""
    asyncio.run(harness.start())
    yield harness
    asyncio.run(harness.stop())
