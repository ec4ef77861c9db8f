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
            }
            for result in results
        ],
    }


def as_markdown(reports: Sequence[tuple[str, Sequence[Result]]]) -> str:
    """A table with a column for each transport, for the documents: without times, so that it only changes in truth."""
    columns = [{result.check.id: result for result in results} for _, results in reports]
    lines = [
        "| | tier | the check asserts | " + " | ".join(name for name, _ in reports) + " |",
        "|---|---|---|" + "---|" * len(reports),
    ]
    for result in reports[0][1]:
        check = result.check
        cells = [column[check.id].outcome if check.id in column else "" for column in columns]
        lines.append(f"| {check.id} | {check.tier} | {check.says} | {' | '.join(cells)} |")
    reasons = [
        f"- {check_id} on {name}: {result.detail}"
        for (name, _), column in zip(reports, columns, strict=True)
        for check_id, result in column.items()
        if result.outcome == "not runnable"
    ]
    if reasons:
        lines += ["", "Not runnable, and so not shown:", "", *reasons]
    return "\n".join(lines) + "\n"
