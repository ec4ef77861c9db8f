"""What users install: wheels of the core and of every plugin, in an environment that has nothing else."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
VERSIONS = [tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"] for project in PROJECTS]

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run *command* and return what it printed; a failure shows all of its output."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the core and the plugins, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS:
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with the wheels and what they require."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements" / "runtime.txt")
    run(*pip, "--no-deps", *wheels)
    return environment / "bin"


def test_wheels_hold_the_packages_and_nothing_else(wheels: list[Path]) -> None:
    """A wheel has one typed package, and no tests."""
    assert len(wheels) == len(PROJECTS)
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        package = wheel.name.split("-")[0]
        assert f"{package}/py.typed" in names
        assert {name.split("/")[0] for name in names} == {package, f"{package}-{wheel.name.split('-')[1]}.dist-info"}
        assert not [name for name in names if "/tests/" in name]


def test_requirements_are_complete(programs: Path) -> None:
    """The pinned runtime requirements are all that the wheels ask for."""
    assert "No broken requirements" in run(programs / "python", "-m", "pip", "check")


def test_plugins_are_found(programs: Path, tmp_path: Path) -> None:
    """`busframe plugins` lists the transport of the core and that of each installed plugin, all of them sound."""
    listed = {
        entry["name"]: entry for entry in json.loads(run(programs / "busframe", "plugins", "--json", cwd=tmp_path))
    }
    assert {"memory", *(project.name for project in PROJECTS[1:])} <= set(listed)
    assert listed["memory"]["distribution"] == "busframe"
    assert listed["memory"]["schemes"] == ["memory"]
    assert listed["rabbitmq"]["distribution"] == "busframe-rabbitmq"
    assert sorted(listed["rabbitmq"]["schemes"]) == ["amqp", "amqps"]
    assert {entry["version"] for entry in listed.values()} == set(VERSIONS)
    assert len({entry["state"] for entry in listed.values()}) == 1, listed


def test_importing_is_light(programs: Path, tmp_path: Path) -> None:
    """`import busframe` loads neither the command line, nor the configuration loader, nor any plugin's client."""
    code = "import sys, busframe; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run(programs / "python", "-c", code, cwd=tmp_path).split()}
    assert "busframe" in loaded
    assert not loaded & {"pydantic_settings", "click", "rich", "pika", "nats", "busframe_nats", "busframe_rabbitmq"}
