"""Servers from the project's docker-compose.yml, where a container engine answers."""

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from tests.brokers.process import checked_output
from tests.brokers.server import Unavailable

_FILE = Path(__file__).parents[2] / "docker-compose.yml"


@functools.cache
def engine_answers() -> bool:
    """Say whether `docker compose` works here and its engine answers."""
    try:
        checked_output(["docker", "compose", "version"], timeout_s=10)
        checked_output(["docker", "info"], timeout_s=10)
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        return False
    return True


class ComposeRunner:
    """Runs one service of docker-compose.yml as a compose project of its own.

    Args:
        service: its name in docker-compose.yml.
        ports: the variables of docker-compose.yml that say on which ports of 127.0.0.1 it is published.
    """

    def __init__(self, service: str, ports: Mapping[str, str]) -> None:
        self.service = service
        self._env = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": f"busframe-test-{uuid4().hex[:8]}"}

    def start(self) -> None:
        """Create or start the container.

        Raises:
            Unavailable: it cannot be made, for instance because its image cannot be fetched.
        """
        try:
            self._compose("up", "--detach", self.service)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise Unavailable(f"docker compose cannot start it: {reason}") from error

    def stop(self) -> None:
        """Stop the container and keep its data."""
        self._compose("stop", self.service)

    def kill(self) -> None:
        """Kill the container and keep its data."""
        if self.running():
            self._compose("kill", self.service)

    def remove(self) -> None:
        """Remove the container, its network and its data."""
        self._compose("down", "--volumes", "--timeout", "5")

    def running(self) -> bool:
        """Say whether the container runs."""
        return bool(self._compose("ps", "--quiet", "--status", "running", self.service).strip())

    def run(self, *command: str) -> str:
        """Run *command* in the container."""
        return self._compose("exec", "-T", self.service, *command)

    def log(self) -> str:
        """Return the last lines of the container's log."""
        return self._compose("logs", "--no-color", "--tail", "60", self.service)

    def _compose(self, *arguments: str) -> str:
        return checked_output(["docker", "compose", "--file", str(_FILE), *arguments], env=self._env)
