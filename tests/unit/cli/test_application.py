from collections.abc import Callable
from pathlib import Path

import pytest

from busframe.memory import MemoryBroker
from tests.unit.cli.conftest import Invoke

Refused = Callable[..., str]


def test_module_not_found(shop: Path, refused: Refused) -> None:
    """A module that is not there names the close ones and those that are there."""
    (shop / "billing.py").write_text("")
    text = refused("describe", "shp:bus")
    assert (
        text
        == f"there is no module 'shp' in {shop}, nor is one installed; did you mean shop? Found there: billing, shop"
    )


def test_submodule_not_found(shop: Path, refused: Refused) -> None:
    """A part of a dotted name that is not there is named."""
    package = shop / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert "there is no module 'pack.app'" in refused("describe", "pack.app:bus")


def test_no_module_at_all(project: Path, refused: Refused) -> None:
    """An empty folder is said to be one."""
    assert "No module was found there" in refused("describe", "shop:bus")


def test_import_error_inside(shop: Path, invoke: Invoke) -> None:
    """A module that imports something missing is not said to be missing; its own frames are shown, and no others."""
    (shop / "broken.py").write_text("def load():\n    import not_installed_anywhere\n\nload()\n")
    result = invoke("describe", "broken:bus")
    assert result.exit_code == 2
    assert 'broken.py", line 4' in result.stderr
    assert 'broken.py", line 2, in load' in result.stderr
    assert "importlib" not in result.stderr
    assert "busframe/cli" not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "Error: importing broken failed: ModuleNotFoundError: No module named 'not_installed_anywhere' "
        "(broken.py, line 2)"
    )


def test_cause_inside(shop: Path, invoke: Invoke) -> None:
    """Of a chain of exceptions all are shown, each with the user's frames."""
    (shop / "broken.py").write_text(
        "try:\n    import json; json.loads('{')\nexcept ValueError as e:\n    raise KeyError('k') from e\n"
    )
    result = invoke("describe", "broken:bus")
    assert "JSONDecodeError" in result.stderr
    assert "direct cause" in result.stderr
    assert "decoder.py" not in result.stderr
    assert "Error: importing broken failed: KeyError: 'k' (broken.py, line 4)" in result.stderr


def test_syntax_error_inside(shop: Path, invoke: Invoke) -> None:
    """A syntax error is shown where it is."""
    (shop / "broken.py").write_text("x = 1\ndef f(:\n")
    result = invoke("describe", "broken:bus")
    assert result.exit_code == 2
    assert "(broken.py, line 2)" in result.stderr.splitlines()[-1]


def test_module_that_ends_the_program(shop: Path, refused: Refused) -> None:
    """A module that runs its program when it is imported is told where to put it."""
    (shop / "script.py").write_text("import sys\nsys.exit(3)\n")
    assert refused("describe", "script:bus") == (
        'importing script ended the program (script.py, line 2): put what runs it under if __name__ == "__main__"'
    )


def test_attribute_missing(shop: Path, refused: Refused) -> None:
    """An attribute that is not there names the buses that are."""
    assert refused("describe", "shop:buz") == "shop has no 'buz'; it has the bus bus: write shop:bus"
    (shop / "two.py").write_text("from busframe import Bus\nfirst = Bus()\nsecond = Bus()\n")
    assert refused("describe", "two:secnd") == "two has no 'secnd'; it has the buses first, second: write two:second"


def test_no_bus_at_all(shop: Path, refused: Refused) -> None:
    """A module without any bus is told how to make one."""
    (shop / "empty.py").write_text("")
    assert refused("describe", "empty:bus") == "empty has no 'bus'; it has no bus at all: write bus = Bus() in empty.py"


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ("emails", "Queue('emails', Email) (Queue)"),
        ("Email", "the class Email"),
        ("make", "the function make"),
        ("bus.uses", "(Topic('order-events', OrderCreated, OrderCancelled)"),
    ],
)
def test_not_a_bus(shop: Path, refused: Refused, attribute: str, what: str) -> None:
    """What is no bus is said to be what it is."""
    with (shop / "shop.py").open("a") as file:
        file.write("\ndef make(): pass\n")
    text = refused("describe", f"shop:{attribute}")
    assert text.startswith(f"shop:{attribute} is not a Bus but {what}")
    assert text.endswith("it has the bus bus: write shop:bus")


@pytest.mark.parametrize(
    ("app", "meant"),
    [
        ("shop", "did you mean shop:bus?"),
        ("shop.py", "did you mean shop:bus?"),
        ("./shop.py:bus", "did you mean shop:bus?"),
        ("pack/app.py:bus", "did you mean pack.app:bus?"),
        ("nowhere", "did you mean nowhere:bus?"),
        ("shop bus", "write it like shop:bus"),
    ],
)
def test_not_module_attribute(shop: Path, refused: Refused, app: str, meant: str) -> None:
    """What has not the form of an APP is shown in the right form, with the module's own bus where it has one."""
    text = refused("describe", app)
    assert text.startswith(f"APP {app!r} is not module:attribute")
    assert meant in text


def test_no_app_anywhere(project: Path, refused: Refused) -> None:
    """Without an APP and a configured one, both ways to say it are shown."""
    text = refused("worker")
    assert text.startswith("no APP was given, and there is no busframe.toml: give module:attribute, such as shop:bus")
    (project / "busframe.toml").write_text("prefix = ''")
    assert "busframe.toml does not say app" in refused("worker")


def test_configured_app_is_found_beside_the_file(
    shop: Path, kept: MemoryBroker, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configured name is imported from the folder of busframe.toml, also from a folder below it."""
    inner = shop / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert "reserve_stock" in invoke("describe").output


def test_mistake_in_a_handler(shop: Path, refused: Refused) -> None:
    """A handler with a wrong signature is an error that names the place in the user's file."""
    (shop / "wrong.py").write_text(
        "from busframe import Bus, Queue, SyncContext\nbus = Bus()\n\n"
        "@bus.handle(Queue('q', str))\nasync def f(body: str, ctx: SyncContext) -> None: ...\n"
    )
    text = refused("worker", "wrong:bus")
    assert text.startswith("wrong.py, line ")
    assert "SyncContext" in text


def test_invalid_name(shop: Path, refused: Refused) -> None:
    """A name that not every broker takes is an error with its place."""
    (shop / "wrong.py").write_text("from busframe import Queue\nq = Queue('a--b')\n")
    assert refused("worker", "wrong:bus").startswith("wrong.py, line 2: queue name 'a--b' is not valid")


def test_handlers_that_disagree(shop: Path, refused: Refused) -> None:
    """Two handlers that state different things of one source are named."""
    with (shop / "shop.py").open("a") as file:
        file.write(
            "\nfrom typing import Any\n@bus.handle(emails, concurrency=5)\nasync def other(body: bytes) -> None: ...\n"
        )
    text = refused("worker", "--url", "memory://")
    assert "send_email says concurrency=3 and other says concurrency=5" in text
