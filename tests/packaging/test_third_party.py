"""A transport of somebody else: built, installed and used beside the core as its author's users do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from busframe.conformance import select
from tests.docs.pages import blocks, environment

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "03-files-transport"
GUIDE = ROOT / "docs" / "how-to" / "write-a-transport.md"
KIT = "hypothesis sortedcontainers pytest iniconfig packaging pluggy pygments".split()
"""What ``busframe[conformance]`` adds, with what that needs."""


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; a failure shows all of its output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env or environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the core and of the example, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, EXAMPLE):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project, cwd=ROOT)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with the two, the kit, and no other plugin."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    pinned = (ROOT / "requirements" / "dev.txt").read_text()
    kit = [re.search(rf"^{name}==(?:.*\\\n)+.*\n", pinned, re.MULTILINE) for name in KIT]
    (folder / "kit.txt").write_text("".join(found[0] for found in kit if found))
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--require-hashes", "-r", ROOT / "requirements" / "runtime.txt", "-r", folder / "kit.txt", cwd=ROOT)
    run(*pip, "--no-deps", *wheels, cwd=ROOT)
    return folder / "bin"


def test_the_guide_quotes_it() -> None:
    """What the guide to writing a transport shows of it is in its files, line by line; `# …` leaves lines out."""
    files = [*EXAMPLE.glob("busframe_files/*.py"), *EXAMPLE.glob("tests/*.py"), EXAMPLE / "pyproject.toml"]
    said = [f"\n{_without_indents(file.read_text())}\n" for file in files]
    quotes = [block for block in blocks(GUIDE) if block.language in ("py", "toml")]
    assert len(quotes) > 15
    for quote in quotes:
        for part in quote.text.split("# …\n"):
            assert any(f"\n{_without_indents(part)}\n" in text for text in said), f"line {quote.line}:\n{part}"


def test_the_guide_names_real_checks() -> None:
    """Each check that it says proves something is one of the kit."""
    named = set(re.findall(r"\b[A-Z]\d+\b", GUIDE.read_text()))
    assert len(named) > 50
    assert named - {check.id for check in select()} == set()


def _without_indents(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


@pytest.mark.slow
@pytest.mark.timeout(120)  # the environment is made in it
def test_it_is_found(programs: Path, tmp_path: Path) -> None:
    """The core, which knows nothing of it, lists it with its scheme, and finds it sound."""
    listed = json.loads(run(programs / "busframe", "plugins", "--json", cwd=tmp_path))
    (found,) = [entry for entry in listed if entry["distribution"] == "busframe-files"]
    assert (found["name"], found["schemes"], found["state"]) == ("files", ["files"], "ok")
    assert {entry["distribution"] for entry in listed} == {"busframe", "busframe-files"}


@pytest.mark.slow
def test_its_users_can_check_it(programs: Path, tmp_path: Path) -> None:
    """`busframe conformance` finds its harness by the scheme of the URL, and nothing fails."""
    url = f"files://{tmp_path}/bus"
    report = json.loads(run(programs / "busframe", "conformance", url, "--only", "A,F", "--json", cwd=tmp_path))
    assert report["transport"] == "files"
    assert report["counts"]["failed"] == 0
    assert report["counts"]["passed"] >= 15


@pytest.mark.slow
def test_three_lines_use_it(programs: Path, tmp_path: Path) -> None:
    """A program that names its URL publishes and handles over it; the message stays between two processes."""
    (tmp_path / "shop.py").write_text(
        "from busframe import Bus, Queue\n"
        "emails = Queue('emails', str)\n"
        f"bus = Bus('files://{tmp_path}/bus', uses=[emails])\n"
        "bus.handle(emails, name='send')(lambda email: print('to', email))\n"
    )
    run(programs / "busframe", "publish", "shop:bus", "emails", "you", cwd=tmp_path)
    assert len(list(tmp_path.glob("bus/emails/ready/*"))) == 1
    assert "to you\n" in run(programs / "busframe", "worker", "shop:bus", "--until-idle", "0.5", cwd=tmp_path)
    assert not list(tmp_path.glob("bus/emails/*/*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_own_tests_pass(wheels: list[Path], tmp_path: Path) -> None:
    """The whole kit, run as its author runs it; with the checkout's core, so that all of its code counts as tested."""
    (wheel,) = [path for path in wheels if path.name.startswith("busframe_files")]
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=ROOT)
    env = environment() | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-x", "tests", cwd=EXAMPLE, env=env)
