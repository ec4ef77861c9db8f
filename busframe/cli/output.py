"""What commands print: aligned tables for people, JSON for scripts."""

import json
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import IO

import click

_UNBOUNDED = 1000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, file: IO[str] | None = None) -> None:
    """Print an aligned table; None is shown as a dash. Only a terminal has a width to fold lines at."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for row in rows:
        # Text, because a name such as "[x]" is not markup.
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    console = Console(file=file or sys.stdout)
    if console.is_terminal:
        console.print(table)
        return
    # A pipe or a file has no width to fold at, and nobody wants to diff trailing blanks.
    console = Console(file=StringIO(), width=_UNBOUNDED, no_color=True)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    click.echo("\n".join(line.rstrip() for line in lines), file=file)


def print_json(value: object) -> None:
    """Print a value as JSON; what JSON has no word for is printed as text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def seconds(value: float | None) -> str | None:
    """A duration as people write it."""
    return None if value is None else f"{value:g} s"
