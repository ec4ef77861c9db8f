"""What the documents say is done: their programs are run, type-checked, and print what they are said to print."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, commands, environment, run_page

WITH_CODE = [page for page in PAGES if any(block.file or block.language == "console" for block in blocks(page))]
ON_RABBITMQ = [page for page in WITH_CODE if "amqp://localhost" in page.read_text()]
IN_MEMORY = [page for page in WITH_CODE if 'Bus("memory://"' in page.read_text() and "$ python" in page.read_text()]

# Where the commands that set a machine up are tried, for they are not run page by page.
SET_UP = {
    "make demo": "tests/examples",
    "make test": "the run that this test is a part of",
    "python3 -m venv .venv": "tests/docs/test_readme.py",
    "source .venv/bin/activate": "tests/docs/test_readme.py",
    "pip install . plugins/*": "tests/docs/test_readme.py",
    "docker compose up --detach rabbitmq": "tests/brokers",
    "make server NAME=rabbitmq ARGS='--port 5672'": "tests/brokers",
}

pytestmark = pytest.mark.slow


def name_of(page: Path) -> str:
    """A page as a test's parameter."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Each program of a page runs, and prints what the page says."""
    run_page(page, tmp_path, None)
    for file in tmp_path.glob("*.py"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"import {file.stem}"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{file.name} cannot be imported\n{done.stderr}"


@pytest.mark.parametrize("page", ON_RABBITMQ, ids=name_of)
def test_a_page_does_the_same_on_rabbitmq(page: Path, tmp_path: Path, rabbitmq_vhost: str) -> None:
    """The commands that name RabbitMQ do what the page says there."""
    assert run_page(page, tmp_path, rabbitmq_vhost)


@pytest.mark.parametrize("page", IN_MEMORY, ids=name_of)
def test_a_program_in_memory_says_the_same_on_rabbitmq(page: Path, tmp_path: Path, rabbitmq_vhost: str) -> None:
    """Where a page shows a program in memory, another URL changes nothing that it prints."""
    run_page(page, tmp_path, rabbitmq_vhost, memory=True)


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_programs_of_a_page_are_typed(page: Path, tmp_path: Path) -> None:
    """What the documents show passes mypy --strict: it is what users begin with."""
    for number, block in enumerate(blocks(page)):
        if block.file and block.file.endswith(".py"):
            version = tmp_path / str(number)
            version.mkdir()
            for other in blocks(page)[:number]:
                if other.file and other.file.endswith(".py"):
                    (version / other.file).write_text(other.text)
            (version / block.file).write_text(block.text)
            done = subprocess.run(
                [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache" / "docs", block.file],
                cwd=version,
                env=environment(MYPYPATH=environment()["PYTHONPATH"]),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{name_of(page)}, line {block.line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_python_is_of_a_file(page: Path) -> None:
    """No program is shown without being tried: each names its file, or is part of a command."""
    assert not [block.line for block in blocks(page) if block.language == "python" and block.file is None]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_what_sets_a_machine_up_is_tried_elsewhere(page: Path) -> None:
    """Each command of a `sh` block is one that another test runs."""
    assert [command for command in commands(page) if command not in SET_UP] == []
