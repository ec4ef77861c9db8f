"""Testing an application: its handlers run on the memory transport, in a time that the test moves.

Needs no pytest and no other dependency.
"""

from busframe.testing.clock import ManualClock
from busframe.testing.running import RunningBus, run

__all__ = ["ManualClock", "RunningBus", "run"]
