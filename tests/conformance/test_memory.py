"""The memory transport keeps the contract."""

from busframe.conformance import Harness
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.suite import TransportConformance


class TestMemory(TransportConformance):
    """What is not runnable needs a server process, and memory is none."""

    not_runnable = frozenset(
        {"A3", "A8", "F16", "G9", "I4", "K3", "M1", "M4", "M5", "M8", "S2", "V2", "V3", "V6", "V20", "V27"}
    )
    in_part = frozenset({"M2", "O2", "P1", "T1", "V8"})  # it has no users, no passwords, no limits and no connection
    not_claimed = frozenset({"E4", "J3"})

    @classmethod
    def make_harness(cls) -> Harness:
        """One broker for all checks."""
        return MemoryHarness()
