"""The pages that follow from the code agree with it."""

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import busframe.errors
from busframe import Bus
from busframe.handling.handler import HandlerOptions
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["errors.md", "settings.md", "command-line.md", "conformance.md"])
def test_a_generated_page_is_up_to_date(name: str, generate: ModuleType) -> None:
    """Whoever changes an error, a setting or a command writes the pages anew: `python docs/generate.py`."""
    pages: dict[Path, str] = generate.pages()
    path = ROOT / "docs" / "reference" / name
    assert path.read_text(encoding="utf-8") == pages[path], "run `python docs/generate.py`"


def test_all_errors_are_on_their_page() -> None:
    """No public error is without its line."""
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    names = [
        name for name, kind in vars(busframe.errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)
    ]
    assert len(names) > 20
    assert [name for name in names if f"**`{name}`**" not in page] == []


def test_all_options_are_on_their_page() -> None:
    """No option of `handle` is without its row."""
    page = (ROOT / "docs" / "reference" / "handlers.md").read_text(encoding="utf-8")
    options = [*inspect.get_annotations(HandlerOptions), *HandlerOptions.__optional_keys__]
    assert [name for name in options if f"| `{name}` |" not in page] == []


def test_all_arguments_are_on_their_page() -> None:
    """No argument of the bus or of publishing is without its row."""
    page = (ROOT / "docs" / "reference" / "bus.md").read_text(encoding="utf-8")
    calls = (Bus.__init__, Bus.publish, Bus.publish_many)
    names = {name for call in calls for name in inspect.signature(call).parameters} - {"self", "to", "body", "bodies"}
    assert len(names) > 15
    assert sorted(name for name in names if f"`{name}`" not in page) == []
