"""The kit looks at this transport, and not past it: what is broken on purpose, it finds."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from busframe.conformance import CHECKS, run_check
from busframe.spi import Outgoing
from busframe_files import transport
from busframe_files.conformance import FilesHarness
from busframe_files.receiver import FilesReceiver

all_takers = transport.Files._takers  # pyright: ignore[reportPrivateUsage]


def acknowledges_nothing(patch: pytest.MonkeyPatch) -> None:
    def nothing(*arguments: object) -> None: ...

    patch.setattr(FilesReceiver, "_do", nothing)


def forgets_delays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transport, "LATEST_US", 0)


def serves_one_subscription(patch: pytest.MonkeyPatch) -> None:
    def first_taker(files: transport.Files, out: Outgoing) -> list[Path]:
        return all_takers(files, out)[:1]

    patch.setattr(transport.Files, "_takers", first_taker)


@pytest.mark.parametrize(
    ("break_it", "check"), [(acknowledges_nothing, "F1"), (forgets_delays, "J1"), (serves_one_subscription, "D1")]
)
def test_the_kit_finds_it(
    break_it: Callable[[pytest.MonkeyPatch], None], check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The named check passes, and then fails."""
    for outcome in ("passed", "failed"):
        result = asyncio.run(run_check(CHECKS[check], FilesHarness(f"files://{tmp_path}/bus")))
        assert result.outcome == outcome, result.detail
        break_it(monkeypatch)
