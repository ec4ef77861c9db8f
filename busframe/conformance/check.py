"""What a check is, and how one is run."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from weakref import WeakKeyDictionary

from busframe.conformance.harness import NotRunnable
from busframe.model.capabilities import Capabilities

if TYPE_CHECKING:
    from busframe.conformance.harness import Harness
    from busframe.conformance.world import World

Tier: TypeAlias = Literal["C", "K", "X", "S"]
Outcome: TypeAlias = Literal["passed", "failed", "not claimed", "not runnable"]
Run: TypeAlias = Callable[["World"], Awaitable[None]]

CHECK_TIMEOUT_S = 60.0
SOAK_TIMEOUT_S = 300.0
"""How much longer than the harness's ``soak_s`` a check of tier S may take."""


class Violation(AssertionError):
    """The transport does not keep what the contract says."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and how it is put to the proof.

    Attributes:
        id: letter and number, as in the specification.
        says: what it asserts, in a sentence.
        tier: ``C`` every transport; ``K`` where it is claimed; ``X`` needs a fault; ``S`` takes long.
        run: raises ``AssertionError`` where the promise is broken.
        claimed: of tier K: whether the capabilities claim it.
        unclaimed: of tier K: shows that what is not claimed is refused with ``Unsupported``.
    """

    id: str
    says: str
    tier: Tier
    run: Run
    claimed: Callable[[Capabilities], bool] | None = None
    unclaimed: Run | None = None

    @property
    def letter(self) -> str:
        """The section it belongs to."""
        return self.id.rstrip("0123456789")


CHECKS: dict[str, Check] = {}
"""All checks, by id; filled when the modules of ``checks`` are imported."""


def check(
    id: str,
    says: str,
    *,
    tier: Tier = "C",
    claimed: Callable[[Capabilities], bool] | None = None,
    unclaimed: Run | None = None,
) -> Callable[[Run], Run]:
    """Register a check."""

    def register(run: Run) -> Run:
        if id in CHECKS:
            raise ValueError(f"two checks are called {id}")
        CHECKS[id] = Check(id, says, tier, run, claimed, unclaimed)
        return run

    return register


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended.

    Attributes:
        check: which.
        outcome: ``not claimed`` means that the transport was shown to refuse it; ``not runnable`` is no pass.
        detail: why, where it did not pass.
        seconds: how long it took.
        left_out: the parts of it that could not run here, each with its reason; the others ran.
    """

    check: Check
    outcome: Outcome
    detail: str
    seconds: float
    left_out: tuple[str, ...] = ()


OUTCOMES: "WeakKeyDictionary[Harness, dict[str, Outcome]]" = WeakKeyDictionary()
"""How the checks ended that were run with a harness so far."""


async def run_check(check: Check, harness: "Harness") -> Result:
    """Run one check against a broker that is started. Never raises but for cancellation."""
    from busframe.conformance.world import World

    started = time.monotonic()
    outcome: Outcome = "passed"
    detail = ""
    world = World(harness, check.id)
    timeout_s = CHECK_TIMEOUT_S * max(1.0, harness.patience)
    if check.tier == "S":
        timeout_s = harness.soak_s + SOAK_TIMEOUT_S
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            async with world:
                if check.claimed is not None and not check.claimed(await world.capabilities()):
                    outcome = "not claimed"
                    if check.unclaimed is not None:
                        await check.unclaimed(world)
                else:
                    await check.run(world)
                await world.watched()
    except NotRunnable as reason:
        outcome, detail = "not runnable", str(reason)
    except Exception as error:
        where = error.__cause__ if limit.expired() and error.__cause__ else error
        outcome, detail = "failed", "".join(traceback.format_exception(where)[-6:])
        if limit.expired():
            detail = f"it did not end within {timeout_s:g} s\n{world.account()}\n{detail}"
        elif isinstance(error, AssertionError):
            detail = f"{error}\n{detail}"
    OUTCOMES.setdefault(harness, {})[check.id] = outcome
    return Result(check, outcome, detail, time.monotonic() - started, tuple(world.left_out))
