"""What an operator should know of a server: what its confirmations are worth, and who can read along."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from busframe.errors import TransportError
from busframe.logic import wire
from busframe.model.entity import Finding
from busframe_nats.answers import JetStream
from busframe_nats.client import Connection
from busframe_nats.settings import Settings

SYNC_SAFE = (2, 10, 23)
SCHEDULES = (2, 12, 0)
CLOCKS_S = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a server.

    Attributes:
        version: major, minor and patch.
        streams: the configurations of the streams that busframe made; an error: they cannot be listed.
        account: JetStream's limits and use of this account; None: not known.
        max_payload: in bytes.
        ahead_s: by how much the server's clock is ahead of ours; None: not known.
    """

    version: tuple[int, int, int]
    streams: Sequence[Mapping[str, Any]] | TransportError
    account: Mapping[str, Any] | None
    max_payload: int
    ahead_s: float | None = None


async def look(settings: Settings, connection: Connection, jetstream: JetStream) -> Sequence[Finding]:
    """Look at the server, and say what is to be said."""
    streams: Sequence[Mapping[str, Any]] | TransportError
    try:
        listed = await jetstream.ask("STREAM.LIST", {"subject": f"{settings.subject_prefix}.>"})
        streams = [each["config"] for each in listed.get("streams") or ()]
        times = [wire.parse_time(each.get("ts")) for each in listed.get("streams") or ()]
        ahead_s = next(((at - datetime.now(UTC)).total_seconds() for at in times if at is not None), None)
    except TransportError as error:
        streams, ahead_s = error, None
    try:
        account: Mapping[str, Any] | None = await jetstream.ask("INFO")
    except TransportError:
        account = None
    return findings(settings, Seen(connection.version, streams, account, connection.max_payload, ahead_s))


def findings(settings: Settings, seen: Seen) -> list[Finding]:
    """All that can be said, good or bad. Pure."""
    return [
        *_connection(settings),
        *_version(seen),
        *_durability(settings, seen),
        *_space(seen),
        *_size(seen),
        *_clock(seen),
    ]


def is_local(host: str) -> bool:
    """Whether a host is this machine, so that nobody can listen in between."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _connection(settings: Settings) -> Iterator[Finding]:
    servers = settings.servers
    if servers[0].tls:
        yield Finding("ok", "connection", "encrypted, and the server's certificate is verified")
    elif all(is_local(server.host) for server in servers):
        yield Finding("ok", "connection", "in plain text, on this machine")
    else:
        says = "messages and passwords travel in plain text"
        yield Finding("warn", "connection", says, "use nats+tls:// and a server with TLS")
    named = servers[0].user, settings.token, settings.nkey_seed, settings.credentials_file
    if all(each is None for each in named):
        says = "the server takes clients without credentials"
        yield Finding("warn", "credentials", says, "give it users, and say user:password@ in the url, or a token")


def _version(seen: Seen) -> Iterator[Finding]:
    number = f"NATS {'.'.join(map(str, seen.version))}"
    if seen.version < SYNC_SAFE:
        says = f"{number}: it may lose confirmed messages when it crashes while it writes"
        yield Finding("warn", "server", says, "upgrade the server to 2.10.23 or later")
    elif seen.version < SCHEDULES:
        yield Finding("ok", "server", f"{number}: without delayed publishing, which needs 2.12", "upgrade to 2.12")
    else:
        yield Finding("ok", "server", number)


def _durability(settings: Settings, seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.streams, TransportError):
        yield Finding("warn", "replicas", f"streams cannot be listed: {seen.streams}", "allow $JS.API.STREAM.LIST")
        return
    by_replicas: dict[int, list[str]] = {}
    for config in seen.streams:
        by_replicas.setdefault(int(config.get("num_replicas", 1)), []).append(str(config.get("name")))
    single = by_replicas.get(1, [])
    if single or (not seen.streams and settings.replicas == 1):
        which = f" ({', '.join(single[:3])}{' …' if len(single) > 3 else ''})" if single else ""
        says = (
            f"a confirmed message is on one server{which}, and on its disk after at most sync_interval "
            "(2 minutes by default, which cannot be read): a crash of the process loses nothing, a loss of power may"
        )
        yield Finding("warn", "replicas", says, "say replicas = 3 on a cluster, or sync_interval: always on the server")
    else:
        least = min(by_replicas) if by_replicas else settings.replicas
        yield Finding("ok", "replicas", f"a confirmed message is on most of {least} servers")
    if memory := [str(config.get("name")) for config in seen.streams if config.get("storage") == "memory"]:
        says = f"kept in memory, and gone with the server: {', '.join(memory)}"
        yield Finding("warn", "storage", says, "use file storage for what must not be lost")


def _space(seen: Seen) -> Iterator[Finding]:
    if seen.account is None:
        return
    used, limit = int(seen.account.get("storage", 0)), int((seen.account.get("limits") or {}).get("max_storage", -1))
    if limit > 0 and used > 0.8 * limit:
        says = f"{used} of {limit} bytes are used: a full account refuses all publishes"
        yield Finding("warn", "space", says, "consume what waits, or raise the account's limit")
    elif not isinstance(seen.streams, TransportError):
        free = [str(each.get("name")) for each in seen.streams if int(each.get("max_bytes", -1)) < 0]
        if free and limit < 0:
            says = "streams have no limit of their own: what nobody consumes fills the server, and stops all others"
            yield Finding("ok", "space", says, "say stream_max_bytes, which rules delayed publishing out")


def _size(seen: Seen) -> Iterator[Finding]:
    if seen.max_payload > 8 * 1024 * 1024:
        says = f"max_payload is {seen.max_payload} bytes: large messages hold all others of a connection up"
        yield Finding("warn", "max_payload", says, "store large content elsewhere and send a reference")


def _clock(seen: Seen) -> Iterator[Finding]:
    if seen.ahead_s is not None and abs(seen.ahead_s) > CLOCKS_S:
        says = f"its clock is {abs(seen.ahead_s):.0f} s {'ahead of' if seen.ahead_s > 0 else 'behind'} this machine's"
        yield Finding(
            "warn", "clock", f"{says}: delayed publishes are late or early by that", "let both keep time (NTP)"
        )
