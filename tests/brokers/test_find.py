"""Where servers come from, and what happens where there is none."""

from pathlib import Path

import pytest

from tests.brokers import find
from tests.brokers.compose import ComposeRunner
from tests.brokers.find import Broker, GivenRunner, running
from tests.brokers.fixtures import skipping
from tests.brokers.server import Server, Unavailable


class Ready(Server):
    """A server that always answers."""

    def ready(self) -> bool:
        return True


def _install(folder: Path, port: int | None) -> Ready:
    return Ready(f"installed:{port}", GivenRunner())


BROKER = Broker(
    "test",
    "BUSFRAME_TEST_TEST_URL",
    given=lambda url: Ready(url, GivenRunner()),
    compose=lambda port: Ready(f"compose:{port}", GivenRunner()),
    install=_install,
)


@pytest.mark.parametrize(
    ("given", "engine", "own", "expected"),
    [
        ("given:1", True, False, "given:1"),
        ("given:1", True, True, "compose:7"),
        ("given:1", False, True, "installed:7"),
        (None, True, False, "compose:7"),
        (None, False, False, "installed:7"),
    ],
)
def test_order(monkeypatch: pytest.MonkeyPatch, given: str | None, engine: bool, own: bool, expected: str) -> None:
    """A given server comes first, unless it is to be killed; then docker compose; then one installed here."""
    if given:
        monkeypatch.setenv(BROKER.variable, given)
    monkeypatch.setattr(find, "engine_answers", lambda: engine)
    with running(BROKER, own=own, port=7) as server:
        assert server.url == expected


@pytest.mark.parametrize("name", find.BROKERS)
def test_each_name_is_a_server_and_a_service(name: str) -> None:
    """What can be asked for by name can be had from docker compose as well, but where it says that it cannot."""
    found = find.broker(name)
    assert found.name == name
    assert found.compose is None or f"\n  {name}:" in (Path(__file__).parents[2] / "docker-compose.yml").read_text()


def test_a_missing_server_skips_on_a_developers_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of the skip says what is missing, why, and what would help."""
    monkeypatch.delenv("CI", raising=False)
    with (
        pytest.raises(pytest.skip.Exception, match=r"no test server: out of luck .*BUSFRAME_TEST_TEST_URL"),
        skipping(BROKER),
    ):
        raise Unavailable("out of luck")


def test_a_missing_server_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """In CI a skip would look like a pass."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no test server: out of luck"), skipping(BROKER):
        raise Unavailable("out of luck")


def test_compose_runs_each_server_as_a_project_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two servers of one service have nothing in common, and removing one takes its data along."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$COMPOSE_PROJECT_NAME $RABBITMQ_PORT $*" | tee -a "$0.calls"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    one, two = (ComposeRunner("rabbitmq", {"RABBITMQ_PORT": port}) for port in ("1", "2"))
    for server in (one, two):
        server.start()
        assert "exec -T rabbitmq rabbitmqctl status" in server.run("rabbitmqctl", "status")
        assert server.running()
        server.kill()
        server.remove()
    calls = (tmp_path / "docker.calls").read_text().splitlines()
    projects = {(call.split()[0], call.split()[1]) for call in calls}
    assert len(projects) == 2
    assert {port for _, port in projects} == {"1", "2"}
    assert "down --volumes" in calls[-1]


def test_compose_that_cannot_start_a_server_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that cannot fetch the image is as good as no engine, and says why."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho no such image >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Unavailable, match="no such image"):
        ComposeRunner("rabbitmq", {}).start()
