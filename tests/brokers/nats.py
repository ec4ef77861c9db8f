"""NATS: one server with JetStream, on loopback only, with a port and data of its own."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.brokers.compose import ComposeRunner
from tests.brokers.find import Broker, GivenRunner
from tests.brokers.golang import built
from tests.brokers.ports import free_ports
from tests.brokers.process import ProcessRunner
from tests.brokers.server import Runner, Server

_CONFIG = Path(__file__).with_name("nats.conf")
_USER = "tester:secret"


class NATS(Server):
    """A NATS server with JetStream; tests keep apart by prefixes of their own.

    Args:
        url: where it is.
        runner: who runs it.
        limited: it is configured by nats.conf, so it has two more users with the password ``secret``: ``user``, who may
            use everything and declare nothing, and ``nobody``, who may do nothing.
    """

    start_timeout_s = 20.0

    def __init__(self, url: str, runner: Runner, *, limited: bool = False) -> None:
        super().__init__(url, runner)
        self.limited = limited

    def url_of(self, user: str) -> str:
        """The URL for another user of nats.conf."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{user}:secret@{parts.netloc.rpartition('@')[2]}").geturl()

    def ready(self) -> bool:
        """Say whether the server greets, which it does once JetStream has read what it keeps."""
        address = urlsplit(self.url)
        try:
            with socket.create_connection((address.hostname or "localhost", address.port or 4222), timeout=1) as greet:
                operation, _, info = greet.makefile("rb").readline().partition(b" ")
                return operation == b"INFO" and json.loads(info).get("jetstream") is True
        except (OSError, ValueError):
            return False


@dataclass(frozen=True)
class Version:
    """A version of the server.

    Attributes:
        number: as Go knows it.
        service: of docker-compose.yml.
        variable: the environment variable that says where one runs.
    """

    number: str
    service: str
    variable: str

    def given(self, url: str) -> NATS:
        """One that runs already."""
        return NATS(url, GivenRunner())

    def compose(self, port: int | None) -> NATS:
        """One in a container."""
        port = port or free_ports(1)[0]
        runner = ComposeRunner(self.service, {"NATS_PORT": str(port)})
        return NATS(f"nats://{_USER}@127.0.0.1:{port}", runner, limited=True)

    def install(self, folder: Path, port: int | None) -> NATS:
        """One that is built here."""
        port = port or free_ports(1)[0]
        return NATS(f"nats://{_USER}@127.0.0.1:{port}", self.runner(folder, port, _CONFIG), limited=True)

    def runner(self, folder: Path, port: int, config: Path) -> ProcessRunner:
        """What runs one that is built here.

        Args:
            folder: for its data and its log.
            port: where it listens on 127.0.0.1.
            config: its configuration, without these.
        """
        program = built(f"nats-{self.number}", f"github.com/nats-io/nats-server/v2@v{self.number}")
        own = ["--addr", "127.0.0.1", "--port", str(port), "--store_dir", str(folder / "data")]
        return ProcessRunner([str(program), "--config", str(config), *own], folder)

    @property
    def broker(self) -> Broker[NATS]:
        """The ways to it."""
        return Broker(self.service, self.variable, self.given, self.compose, self.install)


NEWEST = Version("2.15.2", "nats", "BUSFRAME_TEST_NATS_URL")
OLDEST = Version("2.10.27", "nats-2.10", "BUSFRAME_TEST_NATS_2_10_URL")
BROKER = NEWEST.broker
OLDER = OLDEST.broker
BROKERS = (BROKER, OLDER)
