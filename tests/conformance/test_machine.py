"""The state machine finds what is wrong, and nothing where nothing is."""

import logging

import pytest

from busframe.conformance import Violation
from busframe.conformance.machine import run_machine
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants import MUTANTS, MemoryMutant


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Cuts are what it does all the time."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.slow
def test_memory_and_a_dict_agree() -> None:
    """Random histories of publishing, receiving, settling, closing and cutting."""
    run_machine(MemoryHarness(), examples=15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IgnoresPublishDelay", "AcksOnDelivery"])
def test_it_finds_a_mutant(name: str) -> None:
    """Without being told what to look for."""
    mutant = MUTANTS[name]
    assert isinstance(mutant, MemoryMutant)
    with pytest.raises(Violation):
        run_machine(mutant.harness(), examples=60, shrink=False)
