"""``busframe conformance`` says in one line what is wrong with its arguments, and ends as it found the broker."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from busframe.conformance import NotRunnable, harnesses
from busframe.conformance.check import CHECKS, Check, Violation
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.world import World
from tests.unit.cli.conftest import Invoke

Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("project", "kept")


def harness(url: str) -> MemoryHarness:
    """For every scheme of the fixture ``kept`` but the first one."""
    return MemoryHarness()


@pytest.fixture(autouse=True)
def _harnesses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint(name, f"{__name__}:harness", harnesses.GROUP) for name in ("gone", "locked", "memory")]
    monkeypatch.setattr(harnesses, "entry_points", lambda group: found)


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("nonsense",), "the URL must begin with a scheme"),
            (("foo://x",), "no installed plugin takes foo://"),
            (("memory://?x=1",), "x is unknown; there are dedup_window_s"),
            (
                ("kept://x",),
                "the plugin 'kept' brings no harness for the conformance kit, so kept:// cannot be checked",
            ),
            (("memory://", "--only", "ZZ1"), "there is no check ZZ1; there are A, B, C"),
            (("memory://", "--only", "A1,A99"), "there is no check A99; there are A1, A2"),
            (("memory://", "--tier", "C,Z"), "there is no tier Z, but C, K, X"),
            (("memory://", "--only", "A1", "--tier", "X"), "of A1 none is of tier X"),
        ],
    )
    def test_usage(self, refused: Refused, words: tuple[str, ...], says: str) -> None:
        """What cannot be run is one line that says what there is instead."""
        assert says in refused("conformance", *words)

    @pytest.mark.parametrize("url", ["gone://h", "locked://u:s3cret@h"])
    def test_not_reached(self, refused: Refused, url: str) -> None:
        """A broker that is not there, or lets nobody in, is one error, and not one for each check."""
        assert "broker" in refused("conformance", url, code=4)


class TestReport:
    def test_table(self, invoke: Invoke) -> None:
        """A table of what ran, in lower case as well, and a line that counts."""
        result = invoke("conformance", "memory://", "--only", "a1, b1")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert [line.split()[:3] for line in lines[2:4]] == [["A1", "C", "passed"], ["B1", "C", "passed"]]
        assert lines[-1].startswith("memory: 2 passed, 0 failed, 0 not claimed, 0 not runnable, in ")
        assert result.stderr == "..\n"

    @pytest.mark.parametrize("words", [(), ("--seed", "7")])
    def test_seed(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
        """What is left to chance in tier S has a seed that is printed and can be given again, and a length."""
        seen = []

        async def look(world: World) -> None:
            seen.append((world.harness.seed, world.harness.soak_s))

        monkeypatch.setitem(CHECKS, "M9", Check("M9", "it soaks", "S", look))
        result = invoke("conformance", "memory://", "--tier", "S", "--only", "M9", "--soak-s", "0.5", *words)
        assert result.exit_code == 0
        ((seed, soak_s),) = seen
        assert result.stderr.splitlines()[0] == f"seed {seed}"
        assert soak_s == 0.5
        assert not words or seed == 7

    def test_reasons(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        """What failed, what could not run, and what was left out of a check is said below, and what failed is told."""

        async def fails(world: World) -> None:
            raise Violation("it is wrong")

        async def cannot(world: World) -> None:
            raise NotRunnable("there is no fault")

        async def partly(world: World) -> None:
            with world.part("a user"):
                raise NotRunnable("there are no users")

        for id, run in (("Z1", fails), ("Z2", cannot), ("Z3", partly)):
            monkeypatch.setitem(CHECKS, id, Check(id, "it is right", "C", run))
        result = invoke("conformance", "memory://", "--only", "Z")
        assert result.exit_code == 1
        assert "\nZ1 failed: it is wrong\n" in result.stdout
        assert "\nZ2 not runnable: there is no fault\n" in result.stdout
        assert "\nZ3 passed without a user: there are no users\n" in result.stdout
        assert ": 1 passed, 1 failed, 0 not claimed, 1 not runnable, in " in result.stdout
        assert result.stderr == "FN.\n"

        result = invoke("conformance", "memory://", "--only", "Z2,Z3", "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        report = json.loads(result.stdout)
        assert report["counts"] == {"passed": 1, "failed": 0, "not claimed": 0, "not runnable": 1}
        assert [check["left_out"] for check in report["checks"]] == [[], ["a user: there are no users"]]
        assert all(check["seconds"] >= 0 for check in report["checks"])
