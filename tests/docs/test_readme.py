"""The README keeps its promises: its program runs, its links lead somewhere, it is short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, commands, environment

README = ROOT / "README.md"
LINKED = [README, *PAGES, *sorted(ROOT.glob("examples/*/README.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def run(*command: object, cwd: Path) -> str:
    """Run a command and return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_is_short() -> None:
    """Nobody is to search in it."""
    assert len(README.read_text().splitlines()) <= 120


def program(replaced: str = "") -> str:
    """The first program of the README; `replaced` stands for the URL of its second one."""
    first, second = [block.text for block in blocks(README) if block.language == "python"]
    if not replaced:
        return first
    line = second.strip()
    return first.replace('bus = Bus("memory://")', line.replace("amqp://localhost", replaced))


@pytest.mark.slow
def test_its_program_runs(tmp_path: Path) -> None:
    """The first program prints what the README says."""
    (tmp_path / "hello.py").write_text(program())
    assert run(sys.executable, "hello.py", cwd=tmp_path) == "hello, world\n"
    assert "It prints `hello, world`." in README.read_text()


@pytest.mark.slow
def test_its_program_runs_on_rabbitmq(tmp_path: Path, rabbitmq_vhost: str) -> None:
    """The one line is all that changes."""
    (tmp_path / "hello.py").write_text(program(rabbitmq_vhost))
    assert rabbitmq_vhost in program(rabbitmq_vhost)
    assert run(sys.executable, "hello.py", cwd=tmp_path) == "hello, world\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_installs_as_it_says(tmp_path: Path) -> None:
    """In a fresh environment, the commands of README and tutorial install the framework and all its plugins."""
    wanted = ["python3 -m venv .venv", "source .venv/bin/activate", "pip install . plugins/*"]
    assert [line for line in commands(ROOT / "docs" / "tutorial" / "first-steps.md") if line in wanted] == wanted
    assert wanted[-1] in commands(README)
    run(sys.executable, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    sources = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
    run(python, "-m", "pip", "install", "--quiet", *sources, cwd=tmp_path)
    (tmp_path / "hello.py").write_text(program())
    assert run(python, "hello.py", cwd=tmp_path) == "hello, world\n"
    assert "amqp://" in run(tmp_path / "environment" / "bin" / "busframe", "plugins", cwd=tmp_path)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file, and each fragment a heading of it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as they are made for Markdown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_document_is_in_the_index() -> None:
    """Nothing is written that cannot be found: the index names each page but the records of decisions."""
    index = (ROOT / "docs" / "index.md").read_text()
    records = ROOT / "docs" / "explanation" / "decisions"
    named = [page for page in PAGES if page.name != "index.md" and page.parent != records]
    assert [str(page) for page in named if str(page.relative_to(ROOT / "docs")) not in index] == []
    decisions = (records / "README.md").read_text()
    assert [page.name for page in records.glob("0*.md") if page.name not in decisions] == []


def test_a_fresh_machine_needs_two_commands() -> None:
    """What the README says to type is what the Makefile has."""
    makefile = (ROOT / "Makefile").read_text()
    said = list(commands(README))
    assert said[:2] == ["make demo", "make test"]
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE) for line in said[:2])
    would_run = run("make", "--dry-run", "demo", "URL=amqp://rabbit", "ORDERS=5", cwd=ROOT)
    assert "examples/02-orders/main.py --url 'amqp://rabbit' --orders '5'" in would_run
