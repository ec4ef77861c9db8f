"""The documents as data: code blocks with the names of their files, console blocks as commands with their output.

A block of code begins with a comment that names its file (`# shop.py`); a later block of the same name replaces it. In
a console block each line that begins with `$ ` is a command, and what follows is its output: `…` stands for anything
within a line, and a line of its own with `…` for any number of lines. Blocks marked `sh` set a machine up: they are not
run page by page, and a test of their own says where each of their commands is tried.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
STUBS = Path(__file__).parent / "stubs"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ID = re.compile(r"\b[0-9a-f]{32}\b")  # of a message: another one every time
_NAMED = re.compile(r"# ([\w./-]+\.(?:py|toml))(?:\n|$)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that its first line names."""
        named = _NAMED.match(self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command of a console block with its output."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        found = []
        for part in parts:
            lines = part.splitlines()
            end = next(index for index, line in enumerate(lines) if not line.endswith("\\")) + 1
            found.append(("\n".join(lines[:end]), "\n".join(lines[end:]).strip("\n")))
        return found


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)]


def commands(page: Path) -> Iterator[str]:
    """The commands of the `sh` blocks of a page."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (line for line in block.text.splitlines() if line and not line.startswith("#"))


def environment(**more: str) -> dict[str, str]:
    """What documents are run with: this interpreter's programs first, and nobody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUSFRAME_", "FORCE_COLOR"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    stubs = os.pathsep.join(str(stub) for stub in STUBS.iterdir() if not _installed(stub.name))
    return kept | {"PATH": path, "PYTHONPATH": stubs, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **more}


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def run_page(page: Path, folder: Path, url: str | None, *, memory: bool = False) -> int:
    """Do what a page says, in a folder: write its files, run its commands, compare what they print.

    Args:
        page: which.
        folder: an empty one.
        url: stands for `amqp://localhost`; None: the commands that need it are left out.
        memory: it stands for `memory://` instead.

    Returns:
        How many commands were run.
    """
    count = 0
    for block in blocks(page):
        if url is None and _needs_broker(block, folder):
            continue
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(_on(block.text, url, "memory://") if memory else _on(block.text, url))
        elif block.language == "console":
            for command, expected in block.commands:
                where = f"{page.relative_to(ROOT)}, line {block.line}: $ {command}"
                printed = _run(_on(command, url), folder, where)
                assert _like(expected).fullmatch(printed), f"{where}\n--- printed\n{printed}"
                count += 1
    return count


def _needs_broker(block: Block, folder: Path) -> bool:
    settings = folder / "busframe.toml"
    said = settings.read_text() if settings.exists() else ""
    return block.language == "console" and "amqp://localhost" in block.text + said


def _on(text: str, url: str | None, said: str = "amqp://localhost") -> str:
    return text.replace(said, url) if url else text


def _run(command: str, folder: Path, where: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )
    shown = re.search(r"echo \$\?$", command)
    assert done.returncode == 0 or shown, f"{where}\nended with {done.returncode}\n{done.stdout}"
    printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())
    return printed if printed.strip() else ""


def _like(expected: str) -> re.Pattern[str]:
    lines = []
    for line in expected.splitlines():
        if line.strip() == "…":
            lines.append("(?:.*\n)*?")
        else:
            lines.append(".*".join(re.escape(part) for part in _ID.sub("…", line.rstrip()).split("…")) + "\n")
    return re.compile("".join(lines))
