"""The conformance kit: the same meaning on every broker, as checks that anyone can run.

A transport's author writes a ``Harness`` and gets every check: ``class TestMine(TransportConformance)`` in pytest, or
``busframe conformance URL``. Each check is proven itself by mutants of the memory transport that it must fail.
"""

from busframe.conformance.check import CHECKS, Check, Result, Violation, run_check
from busframe.conformance.harness import BrokerState, Harness, NotRunnable
from busframe.conformance.runner import run, select

__all__ = [
    "CHECKS",
    "BrokerState",
    "Check",
    "Harness",
    "NotRunnable",
    "Result",
    "Violation",
    "run",
    "run_check",
    "select",
]
