"""The settings, in ``[transports.rabbitmq]`` or in the query of the URL."""

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]@\s]+))(?::(?P<port>[0-9]*))?")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is and who we are there; the password shows in no ``repr``."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool

    @property
    def address(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def shown(self) -> str:
        """For logs and errors: without user and password."""
        return shown(self)


def shown(*servers: Server) -> str:
    """The URL of one or several servers that differ in host and port, without user and password."""
    first = servers[0]
    vhost = "" if first.vhost == "/" else quote(first.vhost, safe="")
    return f"{'amqps' if first.tls else 'amqp'}://{','.join(server.address for server in servers)}/{vhost}"


def parse_url(url: str) -> tuple[Server, ...]:
    """The servers of a URL, one for each of its hosts, as written; with the protocol's defaults.

    Raises:
        ValueError: it is no such URL; the text does not repeat it.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError("the scheme must be amqp or amqps")
    if "?" in rest or "#" in rest:
        raise ValueError("options belong to the settings, not into the url")
    authority, _, vhost = rest.partition("/")
    if "/" in vhost:
        raise ValueError("the path is the virtual host: write a slash in its name as %2F")
    who, has_user, hosts = authority.rpartition("@")
    if "@" in who:
        raise ValueError("user and password are said once, before all hosts; write an @ in a password as %40")
    user, has_password, password = who.partition(":")
    return tuple(
        Server(
            host,
            port or DEFAULT_PORTS[scheme],
            unquote(user) if has_user else "guest",
            unquote(password) if has_password else "guest",
            unquote(vhost) or "/",
            scheme == "amqps",
        )
        for host, port in map(_parse_host, hosts.split(","))
    )


def _parse_host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError("a host is missing or wrong: amqp://user:password@host1:5672,host2:5672/vhost, IPv6 as [::1]")
    if found["v6"] is not None:
        try:
            IPv6Address(found["v6"])
        except ValueError:
            raise ValueError("what is in brackets is no IPv6 address") from None
    port = int(found["port"] or 0)
    if found["port"] and not 1 <= port <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    return found["v6"] or found["name"], port


_MANAGEMENT = re.compile(r"(?P<scheme>https?)://(?:(?P<user>[^:@/]*):(?P<password>[^@/]*)@)?(?P<place>[^@?#\s]+)")


def split_management_url(url: str) -> tuple[str, str | None, str]:
    """The URL without user and password, and these; a user that is None was not said.

    Raises:
        ValueError: it is no such URL; the text does not repeat it.
    """
    found = _MANAGEMENT.fullmatch(url)
    if found is None:
        raise ValueError("as in https://host:15671 or http://user:password@host:15672, and nothing after it")
    user = found["user"]
    root = f"{found['scheme']}://{found['place'].rstrip('/')}"
    return root, None if user is None else unquote(user), unquote(found["password"] or "")


class Settings(BaseModel):
    """What can be set for RabbitMQ. All times are in seconds, all sizes in bytes.

    Attributes:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps://`` with the server's certificate verified; without
            a path the virtual host is ``/``. ``host1:5672,host2:5672`` are the nodes of one cluster: they are tried in
            an order that is shuffled for each client, the next one at once when one is lost. Never shown: it holds the
            password.
        auth_mechanism: how the server knows who we are: ``plain`` by user and password, ``external`` by the client's
            certificate (its plugin ``rabbitmq_auth_mechanism_ssl``).
        tls_ca_file: the authorities that may have signed the server's certificate, in PEM; the system's, if not said.
        tls_cert_file: the client's certificate and its intermediates, in PEM.
        tls_key_file: its private key, in PEM; if not said, it is in ``tls_cert_file`` as well.
        tls_key_password: of an encrypted private key. Never shown.
        tls_server_name: the name in the server's certificate, where it is not the host of the URL.
        heartbeat_s: a connection that is silent for twice as long is given up. It cannot be 0: without heartbeats a
            connection that is silently gone would not be noticed.
        connect_timeout_s: for one attempt to connect to one address, from the socket to the opened virtual host.
        max_message_bytes: the server's ``max_message_size`` (16 MiB by default since RabbitMQ 4.0). The framework keeps
            48 KiB of it for what it may add.
        publish_window: the most unconfirmed messages that are under way on one channel.
        publish_window_bytes: the most bytes of unconfirmed bodies that are under way on one channel; a single message
            may be larger.
        blocked_timeout_s: a publishing connection that the server blocks for longer (an alarm of memory or disk) is
            made anew; 0: never. How long a publish waits is its own ``timeout_s``.
        reconnect_min_s: the first pause before the hosts are tried once more; it doubles with each failure, and has
            jitter.
        reconnect_max_s: the longest such pause.
        ordered_prefetch: of sources with ``ordering="key"``: messages that the active worker takes ahead. It has to be
            the same in all workers of a source, else keys are out of order when two workers die in a row.
        management_url: of the server's management plugin, ``http://host:15672``, for what AMQP does not tell: unsettled
            messages in statistics, bindings and policies in plans, nodes and alarms in diagnoses. The user is that of
            ``url``, if none stands in it; it needs the tag ``monitoring``. Never shown: it may hold a password.
        consume_before_buffer: with ``ack="before"``, the most messages that are taken ahead of the handlers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    auth_mechanism: Literal["plain", "external"] = "plain"
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_key_password: SecretStr | None = None
    tls_server_name: str | None = None
    heartbeat_s: int = Field(30, ge=1, le=3600)
    connect_timeout_s: float = Field(10.0, gt=0)
    max_message_bytes: int = Field(16 * 1024 * 1024, ge=64 * 1024, le=512 * 1024 * 1024)
    publish_window: int = Field(1000, ge=1, le=100_000)
    publish_window_bytes: int = Field(32 * 1024 * 1024, ge=1)
    blocked_timeout_s: float = Field(300.0, ge=0)
    reconnect_min_s: float = Field(0.2, gt=0)
    reconnect_max_s: float = Field(15.0, gt=0)
    ordered_prefetch: int = Field(100, ge=1, le=2000)
    management_url: SecretStr | None = None
    consume_before_buffer: int = Field(200, ge=1)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        parse_url(url.get_secret_value())
        return url

    @field_validator("management_url")
    @classmethod
    def _check_management_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            split_management_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        said = [name for name in type(self).model_fields if name.startswith("tls_") and getattr(self, name) is not None]
        if said and not self.servers[0].tls:
            raise ValueError(f"{', '.join(said)}: only for a connection with TLS: write amqps:// in the url")
        if self.tls_cert_file is None and (self.tls_key_file or self.tls_key_password):
            raise ValueError("a private key needs its certificate: say tls_cert_file as well")
        if self.auth_mechanism == "external" and self.tls_cert_file is None:
            raise ValueError("auth_mechanism external is by the client's certificate: say tls_cert_file")
        return self

    @property
    def servers(self) -> tuple[Server, ...]:
        """The parts of the URL: one for each host, as written, with the protocol's defaults."""
        return parse_url(self.url.get_secret_value())
