"""How long ``import busframe`` takes in a fresh interpreter, and which modules take most of it."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

BAR_MS = 120
ROUNDS = 15
SLOWEST = 12
TIMED = "from time import perf_counter as now; begun = now(); import {}; print(now() - begun)"
PROGRAMS = {"busframe": "busframe", "of which asyncio": "asyncio", "pydantic, with the first payload": "pydantic"}


def main() -> None:
    """Measure, and print the tables."""
    with TemporaryDirectory() as cache:
        times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        for measured in (False, *[True] * ROUNDS):  # the first round writes the compiled modules, as installing does
            for name, module in PROGRAMS.items():
                seconds = float(_python("-c", TIMED.format(module), cache=cache).stdout)
                if measured:
                    times[name].append(seconds)
        trace = _python("-X", "importtime", "-c", "import busframe", cache=cache).stderr
    console = Console(width=100)
    table = Table(title=f"import in a fresh interpreter: median of {ROUNDS}, bar {BAR_MS} ms", title_justify="left")
    for column in ("ms", "best", "worst"):
        table.add_column(column, justify="right")
    table.add_column("import")
    for name, taken in times.items():
        table.add_row(*(f"{seconds * 1000:.1f}" for seconds in (median(taken), min(taken), max(taken))), name)
    console.print(table)
    slowest = Table(title="the slowest modules, without what they import themselves", title_justify="left")
    slowest.add_column("ms", justify="right")
    slowest.add_column("module")
    for microseconds, module in sorted(_own_times(trace), reverse=True)[:SLOWEST]:
        slowest.add_row(f"{microseconds / 1000:.1f}", module)
    console.print(slowest)


def _own_times(trace: str) -> list[tuple[int, str]]:
    """(microseconds, module) from what ``-X importtime`` writes; its header has no numbers."""
    rows = [line.removeprefix("import time:").split("|") for line in trace.splitlines() if line.count("|") == 2]
    return [(int(own), module.strip()) for own, _, module in rows if own.strip().isdigit()]


def _python(*arguments: str, cache: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True
    )


if __name__ == "__main__":
    main()
