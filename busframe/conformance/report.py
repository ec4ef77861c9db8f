"""What a run of the kit has shown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from busframe.conformance.check import Outcome, Result

OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "not claimed", "not runnable")


def counts(results: Sequence[Result]) -> dict[Outcome, int]:
    """How many checks ended how. What is not runnable is no pass, and what is not claimed was shown to be refused."""
    found = Counter(result.outcome for result in results)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def as_json(name: str, results: Sequence[Result]) -> dict[str, Any]:
    """For scripts."""
    return {
        "transport": name,
        "counts": counts(results),
        "checks": [
            {
                "id": result.check.id,
                "tier": result.check.tier,
                "says": result.check.says,
                "outcome": result.outcome,
                "detail": result.detail,
                "seconds": round(result.seconds, 3),
                "left_out": list(result.left_out),
            }
            for result in results
        ],
    }
