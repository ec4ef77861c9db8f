"""The memory transport keeps the contract for long."""

import pytest

from busframe.conformance import Harness
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.suite import SoakConformance
from tests.conformance.soak import TIMEOUT_S, soaking


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
class TestMemory(SoakConformance):
    """With cuts, and workers that come and go."""

    @classmethod
    def make_harness(cls) -> Harness:
        """One broker for all checks."""
        return soaking(MemoryHarness())
