"""Running the kit."""

from collections.abc import AsyncIterator, Iterable
from typing import get_args

from busframe.conformance import checks as _checks  # registers them
from busframe.conformance.check import CHECKS, Check, Result, Tier, run_check
from busframe.conformance.harness import Harness

assert _checks

TIERS: tuple[Tier, ...] = get_args(Tier)


def select(only: Iterable[str] = (), tiers: Iterable[str] = ("C", "K", "X")) -> list[Check]:
    """Checks by letter (``F``) or id (``F7``), and by tier; in the order of the specification.

    Raises:
        KeyError: there is no such check.
    """
    wanted = list(only)
    for name in wanted:
        if name not in CHECKS and not any(check.letter == name for check in CHECKS.values()):
            raise KeyError(name)
    chosen = [check for check in CHECKS.values() if not wanted or check.id in wanted or check.letter in wanted]
    return sorted((check for check in chosen if check.tier in tiers), key=_order)


def _order(check: Check) -> tuple[str, int]:
    return check.letter, int(check.id.removeprefix(check.letter))


async def run(harness: Harness, chosen: Iterable[Check]) -> AsyncIterator[Result]:
    """Run checks one after the other, on a broker that is started and stopped here."""
    await harness.start()
    try:
        for check in chosen:
            yield await run_check(check, harness)
    finally:
        await harness.stop()
