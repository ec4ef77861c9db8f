"""That users' programs check and run: type checkers take this folder, and here each program's ``main`` is run."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

PROGRAMS = sorted(
    path.stem for path in Path(__file__).parent.glob("[!_]*.py") if "\nasync def main(" in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program_does_what_it_asserts(name: str) -> None:
    """Each program with an async ``main`` runs on memory, and its own assertions hold."""
    main = import_module(f"tests.typing.{name}").main
    assert inspect.iscoroutinefunction(main)
    await main()


def test_a_script_without_a_loop_does_what_it_asserts() -> None:
    """The program for code without a loop runs in a thread that has none."""
    import_module("tests.typing.script").main()


def test_every_program_is_run() -> None:
    """No program is left out of the list because its ``main`` is written otherwise."""
    assert len(PROGRAMS) == 13
