"""The settings, in ``[transports.rabbitmq]`` or in the query of the URL."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and who we are there; the password shows in no ``repr``."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool

    @property
    def shown(self) -> str:
        """For logs and errors: without user and password."""
        return f"{'amqps' if self.tls else 'amqp'}://{self.host}:{self.port}/{'' if self.vhost == '/' else self.vhost}"


class Settings(BaseModel):
    """What can be set for RabbitMQ. All times are in seconds, all sizes in bytes.

    Attributes:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps://`` with the server's certificate verified; without
            a path the virtual host is ``/``. Never shown: it holds the password.
        heartbeat_s: a connection that is silent for about twice as long is given up.
        connect_timeout_s: for one attempt to connect, from the socket to the opened virtual host.
        max_message_bytes: the server's ``max_message_size`` (16 MiB by default since RabbitMQ 4.0). The framework keeps
            48 KiB of it for what it may add.
        publish_window: the most unconfirmed messages that are under way on one channel.
        publish_window_bytes: the most bytes of unconfirmed bodies that are under way on one channel; a single message
            may be larger.
        blocked_timeout_s: a publishing connection that the server blocks for longer (an alarm of memory or disk) is
            made anew; 0: never. How long a publish waits is its own ``timeout_s``.
        reconnect_min_s: the first pause before reconnecting; it doubles with each failure, and has jitter.
        reconnect_max_s: the longest pause before reconnecting.
        ordered_prefetch: of sources with ``ordering="key"``: messages that the active worker takes ahead. It has to be
            the same in all workers of a source, else keys are out of order when two workers die in a row.
        consume_before_buffer: with ``ack="before"``, the most messages that are taken ahead of the handlers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    heartbeat_s: int = Field(30, ge=1, le=3600)
    connect_timeout_s: float = Field(10.0, gt=0)
    max_message_bytes: int = Field(16 * 1024 * 1024, ge=64 * 1024, le=512 * 1024 * 1024)
    publish_window: int = Field(1000, ge=1, le=100_000)
    publish_window_bytes: int = Field(32 * 1024 * 1024, ge=1)
    blocked_timeout_s: float = Field(300.0, ge=0)
    reconnect_min_s: float = Field(0.2, gt=0)
    reconnect_max_s: float = Field(15.0, gt=0)
    ordered_prefetch: int = Field(100, ge=1, le=2000)
    consume_before_buffer: int = Field(200, ge=1)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            port = parts.port
        except ValueError:
            raise ValueError("the port must be a number from 1 to 65535") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError("the scheme must be amqp or amqps")
        if not parts.hostname or port == 0:
            raise ValueError("a host is missing, as in amqp://user:password@host:5672/vhost")
        if "/" in parts.path[1:]:
            raise ValueError("the path is the virtual host: write a slash in its name as %2F")
        if parts.query or parts.fragment:
            raise ValueError("options belong to the settings, not into the url")
        return url

    @property
    def server(self) -> Server:
        """The parts of the URL, with the protocol's defaults."""
        parts = urlsplit(self.url.get_secret_value())
        return Server(
            host=parts.hostname or "localhost",
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            user=unquote(parts.username) if parts.username is not None else "guest",
            password=unquote(parts.password) if parts.password is not None else "guest",
            vhost=unquote(parts.path[1:]) or "/",
            tls=parts.scheme == "amqps",
        )
