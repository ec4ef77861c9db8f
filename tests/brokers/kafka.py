"""Apache Kafka: one node in KRaft mode, on loopback only, with ports and data of its own."""

import shutil
import socket
import struct
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.brokers.cache import cached
from tests.brokers.compose import ComposeRunner
from tests.brokers.debian import install_packages
from tests.brokers.find import Broker, GivenRunner
from tests.brokers.ports import free_ports
from tests.brokers.process import ProcessRunner, checked_output
from tests.brokers.server import Runner, Server, Unavailable

VERSION = "4.3.1"

_POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""

# What a cluster sets for many nodes is set for one; and nothing is created that nobody asked for. A killed node may
# come back when the session of its former self is over; one that stands still for so long loses its partitions.
_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},SECURE://127.0.0.1:{secure},\
  CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxied},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.secure.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_tester="secret";
listener.name.secure.scram-sha-256.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={home}/keystore.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:tester
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=3000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=500
"""

# ApiVersions, version 0, from nobody: the first thing that every client asks. A broker answers it once it is ready.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


class Kafka(Server):
    """A Kafka server; tests keep apart by prefixes of their own, for Kafka has nothing like virtual hosts.

    Args:
        url: where it is.
        runner: who runs it.
        proxy: (the port of one more listener, the port that this listener tells clients to connect to). Kafka tells
            its clients where it is, so who wants to stand between them needs a listener that tells of him; None: there
            is none.
        secure: (host and port of a listener with TLS, the certificate that vouches for it), for the user ``tester``
            with the password ``secret``, who may do anything, as everybody may at the other listeners, and for users
            whom a test makes with SCRAM and who may do what the test allows them; None: there is none.
    """

    def __init__(
        self, url: str, runner: Runner, proxy: tuple[int, int] | None = None, secure: tuple[str, Path] | None = None
    ) -> None:
        super().__init__(url, runner)
        self.proxy = proxy
        self.secure = secure

    @property
    def bootstrap(self) -> str:
        """What Kafka's own clients call `bootstrap.servers`."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def ready(self) -> bool:
        """Say whether the server answers a request."""
        address = urlsplit(f"//{self.bootstrap.split(',')[0]}")
        try:
            with socket.create_connection((address.hostname or "localhost", address.port or 9092), timeout=1) as ask:
                ask.sendall(_API_VERSIONS)
                return len(ask.recv(4)) == 4
        except OSError:
            return False


def _given(url: str) -> Kafka:
    return Kafka(url, GivenRunner())


def _compose(port: int | None) -> Kafka:
    own, behind, proxied = free_ports(3)
    port = port or own
    ports = {"KAFKA_PORT": port, "KAFKA_BEHIND_PORT": behind, "KAFKA_PROXIED_PORT": proxied}
    runner = ComposeRunner("kafka", {name: str(each) for name, each in ports.items()})
    return Kafka(f"kafka://127.0.0.1:{port}", runner, (behind, proxied))


def _install(folder: Path, port: int | None) -> Kafka:
    home = cached(f"kafka-{VERSION}-maven-2", _download)
    own, controller, behind, proxied, secure = free_ports(5)
    port = port or own
    shutil.copytree(home / "data", folder / "data")
    config = folder / "server.properties"
    ports = {"port": port, "controller": controller, "behind": behind, "proxied": proxied, "secure": secure}
    config.write_text(_CONFIG.format(**ports, home=home, data=folder / "data"))
    vouched = (f"127.0.0.1:{secure}", home / "certificate.pem")
    command = [*_java(home), "-Xmx768m", "kafka.Kafka", str(config)]
    return Kafka(f"kafka://127.0.0.1:{port}", ProcessRunner(command, folder), (behind, proxied), vouched)


def _download(root: Path) -> None:
    """Get Kafka's jars from the Maven repository, and a formatted data folder that each new server copies."""
    if not all(map(shutil.which, ("java", "mvn", "openssl"))):
        install_packages("default-jre-headless", "maven", "openssl")
    root.mkdir()
    (root / "pom.xml").write_text(_POM)
    get = "dependency:copy-dependencies"
    libs = f"-DoutputDirectory={root / 'libs'}"
    config = root / "format.properties"
    ports = {"port": 9092, "controller": 9093, "behind": 9094, "proxied": 9095, "secure": 9096}
    config.write_text(_CONFIG.format(**ports, home=root, data=root / "data"))
    key, certificate = root / "key.pem", root / "certificate.pem"
    try:
        checked_output(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
             "-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        )  # fmt: skip
        (root / "keystore.pem").write_text(key.read_text() + certificate.read_text())
        checked_output(["mvn", "-q", "-B", get, "-DincludeScope=runtime", libs], cwd=root)
        tool = [*_java(root), "kafka.tools.StorageTool"]
        cluster = checked_output([*tool, "random-uuid"]).split()[-1]
        checked_output([*tool, "format", "-t", cluster, "-c", str(config)])
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"installing it failed: {str(error).strip().splitlines()[-1]}") from error


def _java(home: Path) -> list[str]:
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", str(home / "libs" / "*")]


BROKER = Broker("kafka", "BUSFRAME_TEST_KAFKA_URL", given=_given, compose=_compose, install=_install)
BROKERS = (BROKER,)
