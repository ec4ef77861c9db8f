"""That type checkers refuse what is wrong: ``must_fail.py`` has one error on each marked line and none on any other."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRONG = Path(__file__).with_name("must_fail.py")


def run(*command: str | Path) -> str:
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True).stdout


def check(found: Iterable[int]) -> None:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# error: " in line}
    found = set(found)
    assert len(marked) > 50
    assert [lines[number - 1] for number in sorted(marked - found)] == [], "accepted, though marked as wrong"
    assert [lines[number - 1] for number in sorted(found - marked)] == [], "refused, though not marked"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_refuses_each_marked_line_and_no_other() -> None:
    """mypy --strict finds an error on every line that is marked, and on no other line."""
    output = run("mypy", "--no-error-summary", WRONG.relative_to(ROOT))
    errors = re.findall(r"must_fail\.py:(\d+): error: ", output)
    assert errors, output
    check(map(int, errors))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pyright_refuses_each_marked_line_and_no_other(tmp_path: Path) -> None:
    """Pyright, strict, finds an error on every line that is marked, and on no other line."""
    project = tmp_path / "pyrightconfig.json"
    settings = {
        "include": [str(WRONG)],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
    }
    project.write_text(json.dumps(settings), encoding="utf-8")
    output = run("basedpyright", "--project", project, "--pythonpath", sys.executable, "--outputjson")
    problems = json.loads(output)["generalDiagnostics"]
    check(problem["range"]["start"]["line"] + 1 for problem in problems if problem["severity"] == "error")
