"""The class of pytest tests hides nothing: what it lists is exactly what cannot run."""

import pytest

from busframe.conformance import Harness, NotRunnable
from busframe.conformance.check import Check
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.suite import TransportConformance
from busframe.conformance.world import World


async def whole(world: World) -> None:
    """All of it runs."""


async def partly(world: World) -> None:
    """One part of it does not."""
    with world.part("a user without rights"):
        raise NotRunnable("there are no users")


async def cannot(world: World) -> None:
    """Nothing of it runs."""
    raise NotRunnable("there is no fault")


WHOLE, PARTLY, CANNOT = (Check(run.__name__, "it is right", "C", run) for run in (whole, partly, cannot))


@pytest.fixture
def memory() -> Harness:
    """Any harness."""
    return MemoryHarness()


def suite(**lists: set[str]) -> TransportConformance:
    """A class that lists these."""
    made: TransportConformance = type("Listed", (TransportConformance,), lists)()
    return made


def test_what_is_listed_passes(memory: Harness) -> None:
    """A listed check of which a part cannot run, and one that runs whole."""
    suite().test_check(WHOLE, memory)
    suite(in_part={"partly"}).test_check(PARTLY, memory)
    assert suite(in_part={"partly"}).outcome_of(PARTLY) == "passed in part"
    with pytest.raises(pytest.skip.Exception, match="there is no fault"):
        suite(not_runnable={"cannot"}).test_check(CANNOT, memory)


def test_what_is_not_listed_fails(memory: Harness) -> None:
    """A part that is left out without a word, as a check that is."""
    with pytest.raises(pytest.fail.Exception, match="partly left out a user without rights: there are no users"):
        suite().test_check(PARTLY, memory)
    with pytest.raises(pytest.fail.Exception, match="cannot is not runnable here"):
        suite().test_check(CANNOT, memory)


def test_what_is_listed_for_nothing_fails(memory: Harness) -> None:
    """Nothing stays on a list that could run."""
    with pytest.raises(pytest.fail.Exception, match="whole left out nothing, which is not what in_part says"):
        suite(in_part={"whole"}).test_check(WHOLE, memory)
    with pytest.raises(pytest.fail.Exception, match="take it off the list"):
        suite(not_runnable={"whole"}).test_check(WHOLE, memory)
