import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import busframe
import busframe.codecs
import busframe.errors
import busframe.middleware
import busframe.spi

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [busframe, busframe.codecs, busframe.middleware, busframe.spi]
ERRORS = [value for value in vars(busframe.errors).values() if getattr(value, "__module__", "") == "busframe.errors"]
HEAVY = {"click", "importlib.metadata", "pika", "pydantic", "pydantic_core", "pydantic_settings", "rich"}


def names_of(module: ModuleType) -> list[str]:
    """What a module says that it has."""
    names: list[str] = module.__all__
    return names


def described(value: Any) -> dict[str, str | None]:
    """The docstring of a class or function, and of what is public in it."""
    found = {value.__name__: inspect.getdoc(value) if not isinstance(value, type) else value.__doc__}
    if isinstance(value, type):
        for name, member in vars(value).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                found[f"{value.__name__}.{name}"] = inspect.getdoc(getattr(value, name))
    return found


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_names_are_there_once(module: ModuleType) -> None:
    """What ``__all__`` names exists, is named once, and is not private."""
    names = names_of(module)
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(module, name), name
        assert not name.startswith("_"), name


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_nothing_else_leaks(module: ModuleType) -> None:
    """A public module has nothing beside ``__all__`` but its own submodules and what begins with an underscore."""
    submodules = {name for _, name, _ in pkgutil.iter_modules(module.__path__)}
    assert {name for name in vars(module) if not name.startswith("_")} - set(names_of(module)) <= submodules


@pytest.mark.parametrize("module", [*PUBLIC, busframe.errors], ids=lambda module: module.__name__)
def test_every_class_and_function_is_described(module: ModuleType) -> None:
    """Each public class and function has a docstring of its own, and so have its public methods and properties."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if isinstance(value, type)
    ]
    missing = []
    for name in names:
        value = getattr(module, name)
        if isinstance(value, type) or inspect.isfunction(value):
            generated = f"{name}("  # what dataclass writes where nobody did
            missing += [each for each, doc in described(value).items() if not doc or doc.startswith(generated)]
    assert missing == []


def test_every_error_is_of_one_family() -> None:
    """Whoever catches ``BusframeError`` catches all errors, and none of what steers a handler's message."""
    assert all(issubclass(error, busframe.errors.BusframeError) for error in ERRORS)
    for outcome in (busframe.RetryAfter, busframe.PauseSource, busframe.Reject, busframe.Discard):
        assert not issubclass(outcome, busframe.errors.BusframeError)


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers of applications read the annotations."""
    assert (Path(busframe.__file__).parent / "py.typed").is_file()


def test_type_checkers_see_the_same_names() -> None:
    """The names are imported in so many words, so that tools that run nothing find each of them."""
    tree = ast.parse(Path(busframe.__file__).read_text(encoding="utf-8"))
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(alias.name for alias in imported) == sorted(busframe.__all__)
    assert all(alias.asname is None for alias in imported)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_knows_each_name(tmp_path: Path) -> None:
    """For mypy --strict every public name is exported, and none is Any."""
    program = tmp_path / "names.py"
    names = names_of(busframe)
    values = [name for name in names if isinstance(getattr(busframe, name), type)]
    lines = [f"from busframe import {', '.join(names)}", *(f"reveal_type({name})" for name in values)]
    program.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert ": error:" not in output
    assert output.count("Revealed type is") == len(values)
    assert 'Revealed type is "Any"' not in output


def test_importing_loads_nothing_heavy() -> None:
    """``import busframe`` loads neither pydantic nor what only commands and plugins need."""
    command = [sys.executable, "-c", "import sys, busframe; print(*sys.modules)"]
    loaded = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert loaded & HEAVY == set()
    assert not any(name.startswith(("busframe.cli", "busframe.config", "busframe.memory.")) for name in loaded)
