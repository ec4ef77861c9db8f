"""The settings, in ``[transports.nats]`` or in the query of the URL."""

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

DEFAULT_PORT = 4222
SCHEMES = {"nats": False, "nats+tls": True}
"""URL scheme → whether the connection is encrypted."""

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]@\s/?#]+))(?::(?P<port>[0-9]*))?")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is and who we are there; what is secret shows in no ``repr``."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For the client library: without user and password."""
        return f"{'tls' if self.tls else 'nats'}://{self.address}"


def shown(*servers: Server) -> str:
    """The URL of one or several servers, without user and password."""
    return f"{'nats+tls' if servers[0].tls else 'nats'}://{','.join(server.address for server in servers)}"


def parse_url(url: str) -> tuple[Server, ...]:
    """The servers of a URL, one for each of its hosts, as written; with the protocol's defaults.

    Raises:
        ValueError: it is no such URL; the text does not repeat it.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise ValueError("the scheme must be nats or nats+tls")
    if "?" in rest or "#" in rest:
        raise ValueError("options belong to the settings, not into the url")
    authority, _, path = rest.partition("/")
    if path:
        raise ValueError("nothing may follow the hosts: nats://user:password@host1:4222,host2:4222")
    who, has_user, hosts = authority.rpartition("@")
    if "@" in who:
        raise ValueError("user and password are said once, before all hosts; write an @ in a password as %40")
    user, has_password, password = who.partition(":")
    if has_user and not (user and has_password):
        raise ValueError("a user and a password, as in nats://user:password@host; a token is said in token")
    return tuple(
        Server(
            host,
            port or DEFAULT_PORT,
            SCHEMES[scheme],
            unquote(user) if has_user else None,
            unquote(password) if has_user else None,
        )
        for host, port in map(_parse_host, hosts.split(","))
    )


def _parse_host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError("a host is missing or wrong: nats://user:password@host1:4222,host2:4222, IPv6 as [::1]")
    if found["v6"] is not None:
        try:
            IPv6Address(found["v6"])
        except ValueError:
            raise ValueError("what is in brackets is no IPv6 address") from None
    port = int(found["port"] or 0)
    if found["port"] and not 1 <= port <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    return found["v6"] or found["name"], port


class Settings(BaseModel):
    """What can be set for NATS. All times are in seconds, all sizes in bytes.

    Attributes:
        url: ``nats://user:password@host:4222,host2:4222``, or ``nats+tls://`` with the server's certificate verified;
            the user and the password may be left out. Several hosts are the servers of one cluster: they are tried in
            an order that is shuffled for each client, the next one when one is lost. Never shown: it may hold the
            password.
        token: how the server knows who we are, instead of a user and a password. Never shown.
        nkey_seed: or a key pair: its private seed (``SUA…``). Never shown.
        credentials_file: or a file with a user's JWT and seed, as ``nsc`` and NGS make it.
        tls_ca_file: the authorities that may have signed the server's certificate, in PEM; the system's, if not said.
        tls_cert_file: the client's certificate and its intermediates, in PEM.
        tls_key_file: its private key, in PEM; if not said, it is in ``tls_cert_file`` as well.
        tls_key_password: of an encrypted private key. Never shown.
        tls_server_name: the name in the server's certificate, where it is not the host of the URL.
        tls_first: the server wants TLS before its greeting (its ``handshake_first``).
        connect_timeout_s: for one attempt to connect to one host, from the socket to the accepted credentials.
        ping_interval_s: how often the server is asked for a sign of life; a connection on which it gives none for
            twice as long is given up.
        reconnect_min_s: the first pause before the hosts are tried once more; it doubles with each failure, and has
            jitter.
        reconnect_max_s: the longest such pause.
        publish_window: the most unconfirmed messages that are under way.
        publish_window_bytes: the most bytes of unconfirmed messages that are under way; a single one may be larger.
        fetch_window_bytes: the most bytes that one source asks for ahead; the server drops connections that are more
            than its ``max_pending`` (64 MiB) behind.
        subject_prefix: the first part of all subjects and streams that busframe makes: ``bf.q.…``, ``bf-…``.
        inbox_prefix: the first part of the subjects that answers come to, where the server's permissions ask for one.
        js_domain: of JetStream, where it is reached through a leaf node.
        ack_wait_s: of consumers that are created: the server delivers again what it has heard nothing of for so long,
            when its worker died. While a worker lives it renews what it holds three times as often.
        duplicate_window_s: of streams that are created: for how long the server remembers the ids of messages.
        replicas: of streams that are created: on how many servers each message is written before it is confirmed.
        storage: of streams that are created: ``memory`` loses all with the server.
        stream_max_bytes: of streams that are created for queues and topics: a full one refuses publishes
            (``Backpressure``); None: as much as the server has. The server cannot delay messages in a limited stream.
        partitions: of streams that are created: into how many parts of its keys a source with ``ordering="key"`` is
            divided; one message of each part is handled at a time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    token: SecretStr | None = None
    nkey_seed: SecretStr | None = None
    credentials_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_key_password: SecretStr | None = None
    tls_server_name: str | None = None
    tls_first: bool = False
    connect_timeout_s: float = Field(10.0, gt=0)
    ping_interval_s: float = Field(10.0, ge=0.1, le=3600)
    reconnect_min_s: float = Field(0.1, gt=0)
    reconnect_max_s: float = Field(10.0, gt=0)
    publish_window: int = Field(2000, ge=1, le=100_000)
    publish_window_bytes: int = Field(32 * 1024 * 1024, ge=1)
    fetch_window_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024, le=32 * 1024 * 1024)
    subject_prefix: str = Field("bf", pattern=r"^[A-Za-z0-9_-]+$", max_length=40)
    inbox_prefix: str = Field("_INBOX", pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=80)
    js_domain: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    ack_wait_s: float = Field(30.0, ge=1.0, le=3600)
    duplicate_window_s: float = Field(120.0, ge=1.0, le=7 * 24 * 3600)
    replicas: Literal[1, 3, 5] = 1
    storage: Literal["file", "memory"] = "file"
    stream_max_bytes: int | None = Field(None, ge=1024 * 1024)
    partitions: int = Field(16, ge=1, le=256)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        parse_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        said = [name for name in type(self).model_fields if name.startswith("tls_") and getattr(self, name)]
        first = self.servers[0]
        if said and not first.tls:
            raise ValueError(f"{', '.join(said)}: only for a connection with TLS: write nats+tls:// in the url")
        if self.tls_cert_file is None and (self.tls_key_file or self.tls_key_password):
            raise ValueError("a private key needs its certificate: say tls_cert_file as well")
        ways = [name for name in ("token", "nkey_seed", "credentials_file") if getattr(self, name) is not None]
        if first.user is not None:
            ways.insert(0, "a user in the url")
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)}: who we are is said in one way")
        return self

    @property
    def servers(self) -> tuple[Server, ...]:
        """The parts of the URL: one for each host, as written."""
        return parse_url(self.url.get_secret_value())
