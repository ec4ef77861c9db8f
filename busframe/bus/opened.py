"""An open bus: one transport, connected, with everything made that the application needs."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from busframe.bus.requirements import unmet
from busframe.bus.topology import ensure, entities_of, subscription_disagreements
from busframe.codecs import Codecs
from busframe.errors import ConfigurationError, ConnectionFailed, InvalidName, TransportError, Unsupported
from busframe.handling.handler import Handler, Middleware
from busframe.handling.outlet import Outlet, PublishMiddleware
from busframe.handling.plan import SourcePlan, plan_sources
from busframe.logic.names import find_collisions, physical_name
from busframe.logic.retry import RetryPolicy
from busframe.model.destination import Address, Destination, Source
from busframe.model.entity import Entity
from busframe.runtime.backoff import Backoff
from busframe.runtime.clock import Clock
from busframe.spi.transport import Host, Transport

if TYPE_CHECKING:
    from busframe.config import Configuration

logger = logging.getLogger("busframe.bus")

CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Definition:
    """What an application says about a bus: everything that opening it needs."""

    transport: Callable[[Host], Transport] | None
    uses: Sequence[Destination[Any] | Source[Any]]
    handlers: Sequence[Handler]
    codecs: Codecs
    retry: RetryPolicy | None
    middleware: Sequence[Middleware]
    publish_middleware: Sequence[PublishMiddleware]
    clock: Clock = field(default_factory=Clock)

    def plans(self, configuration: "Configuration") -> list[SourcePlan]:
        """How each source is consumed, with what configuration overrides.

        Raises:
            ConfigurationError: handlers contradict one another, or configuration names what is not there.
            InvalidName: names that are each valid cannot stand together.
        """
        settings = configuration.settings
        plans, problems = plan_sources(
            self.handlers, retry=self.retry, middleware=self.middleware, overrides=settings.handlers
        )
        problems += _unknown("handlers", settings.handlers, [handler.name for handler in self.handlers])
        addresses: list[Any] = [*self.uses, *(handler.source for handler in self.handlers)]
        problems += subscription_disagreements(addresses)
        entities = entities_of(self.uses, plans, "", {})
        names = [entity.address.name for entity in entities if isinstance(entity.address, Destination)]
        problems += _unknown("destinations", settings.destinations, names)
        collisions = find_collisions(entity.address for entity in entities)
        if collisions and not problems:
            raise InvalidName(collisions)
        if problems or collisions:
            raise ConfigurationError(list(dict.fromkeys([*problems, *collisions])))
        return plans


def _unknown(table: str, configured: Any, known: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    # A name that is not like any here belongs to another program that shares the file.
    return [
        f"[{table}.{name}]: there is no such name in this application: did you mean {', '.join(close)}?"
        for name in configured
        if name not in known and (close := get_close_matches(name, known, n=3))
    ]


@dataclass
class Reports:
    """What a transport says of its connection and sources, and who wants to know."""

    listener: Callable[[str, Literal["up", "down", "blocked"], BaseException | None], None] | None = None
    connection: Literal["up", "down", "blocked"] = "up"

    def __call__(self, name: str, state: Literal["up", "down", "blocked"], cause: BaseException | None) -> None:
        """Take a report. Logs once per change."""
        if name == "connection":
            if state != self.connection:
                self.connection = state
                if state == "up":
                    logger.info("the broker is there again")
                else:
                    logger.warning("the connection to the broker is %s: %s", state, cause)
            return
        if self.listener is not None:
            self.listener(name, state, cause)


class OpenBus:
    """A bus that is open on one event loop."""

    def __init__(
        self,
        configuration: "Configuration",
        transport: Transport,
        host: Host,
        reports: Reports,
        outlet: Outlet,
        plans: Sequence[SourcePlan],
        entities: Sequence[Entity],
    ) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.transport = transport
        self.host = host
        self.reports = reports
        self.outlet = outlet
        self.plans = plans
        self.entities = {entity.address: entity for entity in entities}
        self.loop = asyncio.get_running_loop()

    async def redeclare(self, entity: Entity) -> None:
        """Make a source exist again, as the topology mode says."""
        related: list[Address] = [entity.address]
        topic = getattr(entity.address, "topic", None)
        if topic is not None:
            related.insert(0, topic)
        related.append(entity.address.dead_letters)  # type: ignore[union-attr]
        await ensure(
            self.transport,
            [self.entities[address] for address in related if address in self.entities],
            self.settings.topology,
        )

    async def close(self) -> None:
        """Flush and disconnect. Idempotent."""
        self.outlet.closed = True
        await _close(self.transport)


async def open_bus(definition: Definition, configuration: "Configuration") -> OpenBus:
    """Connect, check and declare.

    Raises:
        ConfigurationError: all that is wrong with the application and its configuration, in one.
        Unsupported: all that the transport cannot do of what is asked, in one.
        ConnectionFailed: the broker was not reached, or not long enough to declare, within ``connect_timeout_s``.
        AccessDenied: it refuses the credentials.
        TopologyMismatch: what exists differs from what is asked.

    If cancelled: nothing stays open.
    """
    settings = configuration.settings
    plans = definition.plans(configuration)
    reports = Reports()
    names: dict[Address, str] = {}

    def name(address: Address) -> str:
        found = names.get(address)
        if found is None:
            found = names[address] = physical_name(address, settings.prefix)
        return found

    host = Host(
        clock=definition.clock.now,
        sleep=definition.clock.sleep,
        random=definition.clock.random,
        application=settings.app or "busframe",
        instance=f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}",
        name=name,
        report=reports,
    )
    transport, plugin = _make_transport(definition, configuration, host)
    patience = _Patience(host, settings.connect_timeout_s)
    try:
        await patience.connect(transport)
        entities = entities_of(definition.uses, plans, plugin, settings.destinations)
        problems = unmet(plans, entities, transport.capabilities, plugin, settings.max_lane_delay_s)
        if problems:
            raise Unsupported("\n".join(problems))
        await patience.persist(lambda: ensure(transport, entities, settings.topology))
    except BaseException:
        await _close(transport)
        raise
    outlet = Outlet(transport, definition.codecs, definition.publish_middleware, host.clock)
    return OpenBus(configuration, transport, host, reports, outlet, plans, entities)


def _make_transport(definition: Definition, configuration: "Configuration", host: Host) -> tuple[Transport, str]:
    if definition.transport is not None:
        transport = definition.transport(host)
        return transport, type(transport).__name__
    from busframe.config import transport_settings
    from busframe.registry import find_plugin

    configuration.require_url()
    plugin = find_plugin(configuration.settings.scheme or "")
    own = transport_settings(plugin, configuration.settings, configuration.origins)
    return plugin.create(own, host), plugin.name


class _Patience:
    """Tries again for a while what fails because the broker is not there yet, or is lost in the middle of it."""

    def __init__(self, host: Host, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._backoff = Backoff(host.sleep, host.random)
        self._time = asyncio.get_running_loop().time
        self._until = self._time() + timeout_s

    async def connect(self, transport: Transport) -> None:
        """Open a transport. Raises ``ConnectionFailed`` when the time is over."""

        async def attempt() -> None:
            try:
                async with asyncio.timeout(max(1.0, self._left_s) if isfinite(self._timeout_s) else None):
                    await transport.open()
            except TimeoutError as error:
                raise ConnectionFailed(
                    f"the broker did not answer within {self._timeout_s:g} s: is it running, and is the URL right? "
                    "(connect_timeout_s says how long to wait)"
                ) from error

        await self.persist(attempt)

    async def persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it until it does not fail for the connection. Raises what it fails with, at last for the connection."""
        while True:
            try:
                return await work()
            except TransportError as error:
                if not error.transient or self._left_s <= 0:
                    raise
                if self._backoff.failures == 0:
                    how_long = f"for {self._timeout_s:g} s" if isfinite(self._timeout_s) else "for ever"
                    logger.warning("the broker is not there yet, trying %s: %s", how_long, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._left_s if isfinite(self._timeout_s) else None):
                        await self._backoff.wait()

    @property
    def _left_s(self) -> float:
        return self._until - self._time()


async def _close(transport: Transport) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await transport.close()
    except Exception as error:
        logger.warning("closing the connection failed: %r", error)
