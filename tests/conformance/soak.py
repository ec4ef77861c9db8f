"""For how long the checks of tier S go on in tests: as `make soak` says, else for a moment, to know that they work."""

import os
from typing import TypeVar

from busframe.conformance import Harness

SECONDS = float(os.environ.get("BUSFRAME_TEST_SOAK_S", "4"))
SEED = int(os.environ.get("BUSFRAME_TEST_SOAK_SEED", "1"))
TIMEOUT_S = SECONDS + 400

H = TypeVar("H", bound=Harness)


def soaking(harness: H) -> H:
    """A harness that goes on for so long."""
    harness.soak_s, harness.seed = SECONDS, SEED
    return harness
