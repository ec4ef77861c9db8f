"""Runs an example as a user does: a process of its own, in the example's folder."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(
    folder: Path, *arguments: str, program: str = "main.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of an example with the interpreter of the tests; settings of the tests' environment stay out."""
    return subprocess.run(
        [sys.executable, program, *arguments],
        cwd=folder,
        env=without_settings() | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def without_settings() -> dict[str, str]:
    """The environment without what would configure a bus, or colour the output."""
    ours = ("BUSFRAME_", "FORCE_COLOR", "COLUMNS", "NO_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
