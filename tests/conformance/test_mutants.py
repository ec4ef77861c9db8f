"""The checks are checked: each fails on the mutants that it must catch, and says why."""

import re

import pytest

from busframe.conformance import CHECKS, run_check
from busframe.conformance.mutants import MUTANTS, MemoryMutant

CAUGHT = [
    pytest.param(mutant, id, id=f"{mutant.name}-{id}")
    for mutant in MUTANTS.values()
    if isinstance(mutant, MemoryMutant)
    for id in mutant.caught_by
]


@pytest.mark.parametrize(("mutant", "id"), CAUGHT)
async def test_a_check_catches_its_mutant(mutant: MemoryMutant, id: str) -> None:
    """On a broken transport the check fails, for the right reason."""
    harness = mutant.harness()
    await harness.start()
    result = await run_check(CHECKS[id], harness)
    await harness.stop()
    assert result.outcome == "failed", f"{id} {result.outcome} although {mutant.wrong}"
    assert re.search(mutant.says, result.detail), result.detail


@pytest.mark.parametrize("id", CHECKS)
def test_every_check_has_a_mutant(id: str) -> None:
    """A check that no mutant fails is no check."""
    assert any(id in mutant.caught_by for mutant in MUTANTS.values())
