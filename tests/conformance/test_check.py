"""How one check ends is told as it was."""

import asyncio

import pytest

from busframe.conformance import check as checks
from busframe.conformance import run_check
from busframe.conformance.check import Check
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.world import World


async def forever(world: World) -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()


async def gave_up(world: World) -> None:
    """Something in it waited in vain."""
    raise TimeoutError("no answer within 3 s")


async def test_a_check_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says after how long, and where it was."""
    monkeypatch.setattr(checks, "CHECK_TIMEOUT_S", 0.05)
    result = await run_check(Check("Z1", "it ends", "C", forever), MemoryHarness())
    assert result.outcome == "failed"
    assert result.detail.startswith("it did not end within 0.05 s")
    assert "in forever" in result.detail


async def test_a_timeout_in_a_check_is_not_the_check_s_own() -> None:
    """Whoever reads it looks for what waited, not for what took a minute."""
    result = await run_check(Check("Z2", "it ends", "C", gave_up), MemoryHarness())
    assert result.outcome == "failed"
    assert "did not end" not in result.detail
    assert "no answer within 3 s" in result.detail
