"""Where a server comes from: one that is given, else docker compose, else one installed here."""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.brokers.compose import engine_answers
from tests.brokers.server import Server, Unavailable

# What can be had: a module here, and after a dash the version, where it is not the one that most tests use.
BROKERS = ("rabbitmq", "rabbitmq-3.10", "kafka", "nats", "nats-2.10", "toxiproxy")

S = TypeVar("S", bound=Server)


@dataclass(frozen=True)
class Broker(Generic[S]):
    """The ways to one kind of server; each broker's module has one for each version, all of them in BROKERS.

    Attributes:
        name: one of `find.BROKERS`, and the service in docker-compose.yml.
        variable: the environment variable that gives the URL of a running server.
        given: makes the server object for such a URL.
        compose: makes a server of docker compose, on the given port or on a free one; None: there is no such service.
        install: makes a server in the given folder, on the given port or on a free one; may install it first.
            Raises `Unavailable` where it cannot.
    """

    name: str
    variable: str
    given: Callable[[str], S]
    compose: Callable[[int | None], S] | None
    install: Callable[[Path, int | None], S]


class GivenRunner:
    """The runner of a server that was given by URL: it runs already, and is not ours to stop."""

    def start(self) -> None:
        """Do nothing: the server runs."""

    def stop(self) -> None:
        """Do nothing: others may use the server."""

    def kill(self) -> None:
        """Do nothing: others may use the server."""

    def remove(self) -> None:
        """Do nothing: the server stays."""

    def running(self) -> bool:
        """Say yes: waiting for it is worth while."""
        return True

    def run(self, *command: str) -> str:
        """Refuse: nothing can be run beside a server that may be anywhere."""
        raise Unavailable(f"{command[0]} cannot be run beside a server that is given by its URL")

    def log(self) -> str:
        """Return nothing: the log is somewhere else."""
        return ""


@contextmanager
def running(broker: Broker[S], *, own: bool = False, port: int | None = None) -> Iterator[S]:
    """Start a server of *broker*, yield it once it answers, and end it afterwards.

    Args:
        broker: the kind of server.
        own: the caller will stop and kill it, so a server that is given by URL will not do.
        port: where it is to listen; a free port if None.

    Raises:
        Unavailable: there is none, and none can be installed here.
    """
    url = os.environ.get(broker.variable)
    with tempfile.TemporaryDirectory(prefix=f"busframe-{broker.name}-") as folder:
        if url and not own:
            server = broker.given(url)
        elif broker.compose is not None and engine_answers():
            server = broker.compose(port)
        else:
            server = broker.install(Path(folder), port)
        try:
            yield server.start()
        finally:
            server.kill()  # what it keeps is thrown away, so it need not take seconds to put it in order
            server.runner.remove()


def broker(name: str) -> Broker[Server]:
    """Return the broker of that name, one of `BROKERS`."""
    module = importlib.import_module(f"tests.brokers.{name.partition('-')[0]}")
    found: Broker[Server] = next(broker for broker in module.BROKERS if broker.name == name)
    return found
