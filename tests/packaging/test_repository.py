"""What is committed works on any machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Written in pieces, so that this file does not hold what it forbids.
_REGISTRIES = [
    "pypi" + r"\.(org|io)",
    "python" + r"hosted\.org",
    "npm" + r"js\.(org|com)",
    "deb" + r"\.debian\.org",
    "proxy" + r"\.golang\.org",
    "maven" + r"\.(org|apache\.org/maven2)",
]
_MACHINE = r"(?<![\w.$}])/(work|root|Users/\w+|home/\w+)/"


@pytest.fixture(scope="module")
def committed() -> dict[str, str]:
    """Name and text of each file that git tracks."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listing.split("\0") if name and (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(errors="replace") for name in names}


def _lines_with(pattern: str, files: dict[str, str]) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if expression.search(line)
    ]


def test_no_address_of_a_package_registry(committed: dict[str, str]) -> None:
    """Whoever installs chooses the registry: no file names one."""
    assert _lines_with("|".join(_REGISTRIES), committed) == []


def test_requirements_carry_hashes_and_no_options(committed: dict[str, str]) -> None:
    """The pinned requirements say what, and how to check it, never where from."""
    pinned = {name: text for name, text in committed.items() if re.fullmatch(r"requirements/\w+\.txt", name)}
    assert pinned
    assert _lines_with(r"^-|://|^busframe", pinned) == []
    for name, text in pinned.items():
        requirements = re.findall(r"^[a-z][^\n]*==.*?(?=^[a-z]|\Z)", text, re.MULTILINE | re.DOTALL)
        assert requirements
        assert not [entry for entry in requirements if "--hash=sha256:" not in entry], name


def test_no_path_of_one_machine(committed: dict[str, str]) -> None:
    """No file holds an absolute path that only its author's machine has."""
    assert _lines_with(_MACHINE, committed) == []
