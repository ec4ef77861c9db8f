"""RabbitMQ: a server with the management plugin, on loopback only, with ports and data of its own."""

import base64
import contextlib
import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from tests.brokers.compose import ComposeRunner
from tests.brokers.debian import DATA, RootRunner, debian_root
from tests.brokers.find import Broker, GivenRunner
from tests.brokers.ports import free_ports
from tests.brokers.server import Runner, Server

# Every listener is on loopback: AMQP, management, and below Erlang's own distribution and port mapper.
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
log.file = false
log.console = true
disk_free_limit.absolute = 50MB
"""
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
# Instead of three minutes, as the plugin's README advises: a level of the delay cascade that is there before the next
# one, when the server starts, waits so long until it passes on again what was due.
_RETRY = "-rabbit dead_letter_worker_publisher_confirm_timeout 5000"


class RabbitMQ(Server):
    """A RabbitMQ server; `management_url` is the root of its HTTP API's site."""

    def __init__(self, url: str, management_url: str, runner: Runner) -> None:
        super().__init__(url, runner)
        self.management_url = management_url

    def ready(self) -> bool:
        """Say whether the server answers an AMQP greeting and its management API is up."""
        address = urlsplit(self.url)
        try:
            with socket.create_connection((address.hostname or "localhost", address.port or 5672), timeout=1) as greet:
                greet.sendall(b"AMQP\x00\x00\x09\x01")
                if greet.recv(1) != b"\x01":  # the type of a method frame: Connection.Start
                    return False
            self.api("GET", "/overview")
        except OSError:
            return False
        return True

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` and return what it printed; takes half a second, so prefer `api`."""
        return self.runner.run("rabbitmqctl", "--quiet", *arguments)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API, for instance `api("PUT", "/vhosts/mine")`; returns its JSON or None.

        Raises:
            OSError: the server does not answer or refuses (then an `urllib.error.HTTPError`).
        """
        address = urlsplit(self.url)
        user = f"{address.username or 'guest'}:{address.password or 'guest'}"
        request = urllib.request.Request(
            f"{self.management_url}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def persist_declarations(self) -> None:
        """Make the server write down which quorum queues it has; call it between declaring one and `kill`.

        RabbitMQ 4.0 writes the names of new quorum queues about half a second later. Killed before that, it
        starts the queue anew with another identity: what it had confirmed is gone, and the queue has no leader.
        """
        self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")

    @contextlib.contextmanager
    def fresh_vhost(self) -> Iterator[str]:
        """Make a virtual host and yield its URL; afterwards delete it with all it holds."""
        name = f"test-{uuid4().hex[:12]}"
        self.api("PUT", f"/vhosts/{name}", {"default_queue_type": "quorum"})
        try:
            yield self.vhost_url(name)
        finally:
            with contextlib.suppress(OSError):  # a test may have left the server dead
                self.api("DELETE", f"/vhosts/{name}")

    def vhost_url(self, name: str) -> str:
        """Return the URL of the virtual host *name* on this server."""
        return urlsplit(self.url)._replace(path=f"/{quote(name, safe='')}").geturl()


@dataclass(frozen=True)
class Version:
    """A version of the server, and what it is called wherever one can come from.

    Attributes:
        number: major and minor.
        suite: the Debian release that has it.
        service: of docker-compose.yml.
        variable: what the environment variables begin with that say where one runs.
    """

    number: str
    suite: str
    service: str
    variable: str

    def given(self, url: str) -> RabbitMQ:
        """One that runs already."""
        host = urlsplit(url).hostname or "localhost"
        management_url = os.environ.get(f"{self.variable}_MANAGEMENT_URL", f"http://{host}:15672")
        return RabbitMQ(url, management_url, GivenRunner())

    def compose(self, port: int | None) -> RabbitMQ:
        """One in a container."""
        amqp, management = free_ports(2)
        amqp = port or amqp
        ports = {"RABBITMQ_PORT": str(amqp), "RABBITMQ_MANAGEMENT_PORT": str(management)}
        return _local(amqp, management, ComposeRunner(self.service, ports))

    def install(self, folder: Path, port: int | None) -> RabbitMQ:
        """One from Debian's packages."""
        root = debian_root(f"rabbitmq-{self.number}-debian-{self.suite}", self.suite, ["rabbitmq-server"])
        amqp, management, distribution, epmd = free_ports(4)
        amqp = port or amqp
        (folder / "rabbitmq.conf").write_text(_CONFIG.format(amqp=amqp, management=management))
        (folder / "enabled_plugins").write_text("[rabbitmq_management].")
        env = {
            "HOME": DATA,
            # Not /usr/sbin: the scripts there turn into another user, with another home and so another cookie.
            "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RABBITMQ_NODENAME": f"busframe-{amqp}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{DATA}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{DATA}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{DATA}/data",
            "RABBITMQ_LOG_BASE": f"{DATA}/log",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOOPBACK} {_RETRY}",
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        return _local(amqp, management, RootRunner(root, ["rabbitmq-server"], folder, env))

    @property
    def broker(self) -> Broker[RabbitMQ]:
        """The ways to it."""
        return Broker(self.service, f"{self.variable}_URL", self.given, self.compose, self.install)


def _local(amqp: int, management: int, runner: Runner) -> RabbitMQ:
    return RabbitMQ(f"amqp://guest:guest@127.0.0.1:{amqp}", f"http://127.0.0.1:{management}", runner)


BROKER = Version("4.0", "trixie", "rabbitmq", "BUSFRAME_TEST_AMQP").broker
OLDER = Version("3.10", "bookworm", "rabbitmq-3.10", "BUSFRAME_TEST_AMQP_3_10").broker
BROKERS = (BROKER, OLDER)
