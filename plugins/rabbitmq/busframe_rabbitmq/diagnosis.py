"""What an operator should know of a server: what its confirmations are worth, and who can read along. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from busframe.errors import TransportError
from busframe.model.entity import Finding
from busframe_rabbitmq.settings import Settings, split_management_url

OLDEST = (3, 10)
"""The oldest server that is supported."""

LIMITED = (4, 0)
"""From here on a server takes messages of up to 16 MiB, if it is not told otherwise."""

DEFAULT_MESSAGE_BYTES = 16 * 1024 * 1024
DEFAULT_CONSUMER_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a server.

    Attributes:
        version: major and minor; (0, 0): it did not say.
        blocked: why it takes no publishes; None: it does.
        nodes: of its cluster, as the management plugin lists them; None: nobody asked; an error: it did not answer.
        hold_max_s: how long a handler may hold a message, in seconds.
    """

    version: tuple[int, int]
    blocked: str | None
    nodes: Sequence[Mapping[str, Any]] | TransportError | None
    hold_max_s: float


def findings(settings: Settings, seen: Seen) -> list[Finding]:
    """All that can be said, good or bad."""
    return [
        *_connection(settings),
        *_credentials(settings),
        *_version(seen),
        *_alarms(seen),
        *_nodes(seen),
        *_limits(settings, seen),
    ]


def is_local(host: str) -> bool:
    """Whether a host is this machine, so that nobody can listen in between."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _connection(settings: Settings) -> Iterator[Finding]:
    first = settings.servers[0]
    far = ", ".join(server.host for server in settings.servers if not is_local(server.host))
    if first.tls:
        yield Finding("ok", "connection", "encrypted, and the server's certificate is verified")
    elif far:
        says = f"password and messages travel to {far} in plain text"
        yield Finding("warn", "connection", says, "use amqps:// and a port of the server with TLS")
    else:
        yield Finding("ok", "connection", "in plain text, within this machine")
    if settings.management_url is not None:
        root, _, _ = split_management_url(settings.management_url.get_secret_value())
        parts = urlsplit(root)
        if parts.scheme == "http" and not is_local(parts.hostname or ""):
            says = f"the password travels to {parts.hostname} in plain text"
            yield Finding("warn", "management_url", says, "use https:// and a port of the management plugin with TLS")


def _credentials(settings: Settings) -> Iterator[Finding]:
    first = settings.servers[0]
    if settings.auth_mechanism == "plain" and (first.user, first.password) == ("guest", "guest"):
        says = "the user is guest with the password that everybody knows"
        yield Finding("warn", "credentials", says, "make a user of your own, with rights in one virtual host")


def _version(seen: Seen) -> Iterator[Finding]:
    if seen.version == (0, 0):
        yield Finding("warn", "server", "it does not say its version: is it RabbitMQ?", "use RabbitMQ 4.0 or later")
        return
    number = f"RabbitMQ {seen.version[0]}.{seen.version[1]}"
    if seen.version < OLDEST:
        says = f"{number} is older than {OLDEST[0]}.{OLDEST[1]}, the oldest that this plugin is made for"
        yield Finding("fail", "server", says, "upgrade the server to 4.0 or later")
    elif seen.version < LIMITED:
        says = f'{number}: without ordering="key", which it mixes up when a consumer changes'
        yield Finding("ok", "server", says, "upgrade the server to 4.0 or later")
    else:
        yield Finding("ok", "server", number)


def _alarms(seen: Seen) -> Iterator[Finding]:
    why = [] if seen.blocked is None else [seen.blocked]
    if isinstance(seen.nodes, Sequence):
        for kind, what in (("mem_alarm", "memory"), ("disk_free_alarm", "free disk space")):
            nodes = [str(node.get("name")) for node in seen.nodes if node.get(kind)]
            why += [f"low on {what}: {', '.join(nodes)}"] if nodes else []
    if why:
        says = f"the server takes no messages for now ({'; '.join(why)}): publishes wait, and fail when time is over"
        yield Finding("fail", "alarms", says, "free memory or disk space on the server, or consume what it holds")
    else:
        yield Finding("ok", "alarms", "the server takes messages")


def _nodes(seen: Seen) -> Iterator[Finding]:
    nodes = seen.nodes
    if nodes is None:
        says = "on how many nodes a confirmed message is written is not known: AMQP does not tell"
        yield Finding("ok", "nodes", says, "say management_url to know")
        return
    if isinstance(nodes, TransportError):
        yield Finding(
            "warn", "nodes", str(nodes), "see that management_url is right, and its user has the tag monitoring"
        )
        return
    down = [str(node.get("name")) for node in nodes if not node.get("running")]
    if down:
        yield Finding("warn", "nodes", f"not running: {', '.join(down)}", "start them, or forget them for good")
    elif len(nodes) == 1:
        says = "there is one node: a confirmed message is on one disk, and gone with it"
        yield Finding("warn", "nodes", says, "use a cluster of three nodes where messages must outlive a machine")
    elif len(nodes) == 2:
        says = "of two nodes both are a quorum: queues stop when one is away"
        yield Finding("warn", "nodes", says, "use three nodes")
    else:
        yield Finding("ok", "nodes", f"{len(nodes)} nodes: a confirmed message is on most of a queue's members")


def _limits(settings: Settings, seen: Seen) -> Iterator[Finding]:
    says = (
        f"a handler may hold a message for {seen.hold_max_s:g} s; the server's consumer_timeout "
        f"({DEFAULT_CONSUMER_TIMEOUT_S} s by default) cannot be read"
    )
    yield Finding("ok", "consumer_timeout", says, "see that it is longer in rabbitmq.conf")
    if seen.version >= LIMITED and settings.max_message_bytes > DEFAULT_MESSAGE_BYTES:
        says = (
            f"max_message_bytes is {settings.max_message_bytes}, more than the server's max_message_size of "
            f"{DEFAULT_MESSAGE_BYTES} by default, which cannot be read"
        )
        yield Finding("warn", "max_message_bytes", says, "see that max_message_size is as high in rabbitmq.conf")
