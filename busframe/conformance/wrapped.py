"""A transport and a receiver that do what others do, for checks and mutants that step in between."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import SourceAddress
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.model.settlement import Settlement
from busframe.registry import find_plugin, register
from busframe.spi.transport import Host, Receiver, Transport


class WrappedReceiver(Receiver):
    """Does what another receiver does."""

    def __init__(self, inner: Receiver) -> None:
        self.inner = inner

    @property
    def where(self) -> Any:  # type: ignore[override]
        """The stored filter."""
        return self.inner.where

    async def open(self) -> None:
        """As the other one."""
        await self.inner.open()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the other one."""
        return await self.inner.receive(limit)

    def holds(self, delivery: Delivery) -> bool:
        """As the other one."""
        return self.inner.holds(delivery)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """As the other one."""
        return await self.inner.settle(settled)

    async def stop(self) -> None:
        """As the other one."""
        await self.inner.stop()

    async def close(self) -> None:
        """As the other one."""
        await self.inner.close()

    async def resize(self, prefetch: int) -> None:
        """As the other one."""
        await self.inner.resize(prefetch)


class WrappedTransport(Transport):
    """Does what another transport does, with receivers that are wrapped.

    Args:
        inner: the other one.
        receivers: makes a receiver from the other one's.
    """

    def __init__(self, inner: Transport, receivers: Callable[[Receiver], Receiver]) -> None:
        self.inner = inner
        self._receivers = receivers

    @property
    def capabilities(self) -> Any:  # type: ignore[override]
        """What the other one claims."""
        return self.inner.capabilities

    @property
    def native(self) -> object:  # type: ignore[override]
        """The client library's own object."""
        return self.inner.native

    async def open(self) -> None:
        """As the other one."""
        await self.inner.open()

    async def close(self) -> None:
        """As the other one."""
        await self.inner.close()

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """As the other one."""
        return await self.inner.plan(entities)

    async def apply(self, changes: Sequence[Change]) -> None:
        """As the other one."""
        await self.inner.apply(changes)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """As the other one."""
        return await self.inner.publish(outgoing, timeout_s=timeout_s)

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """A wrapped receiver of the other one."""
        return self._receivers(self.inner.receiver(entity, prefetch=prefetch, ack=ack))

    async def stats(self, source: SourceAddress) -> Stats:
        """As the other one."""
        return await self.inner.stats(source)

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """As the other one."""
        return await self.inner.browse(source, after=after, limit=limit)

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """As the other one."""
        return await self.inner.remove(source, positions)

    async def purge(self, source: SourceAddress) -> int:
        """As the other one."""
        return await self.inner.purge(source)

    async def diagnose(self) -> Sequence[Finding]:
        """As the other one."""
        return await self.inner.diagnose()


def change_transports(scheme: str, change: Callable[[Callable[[Host], Transport], Host], Transport]) -> None:
    """Let this process make other transports from now on.

    Args:
        scheme: of the URLs that they are for.
        change: makes one, from what makes the right one, and a host.
    """
    plugin = find_plugin(scheme)

    def create(settings: Any, host: Host) -> Transport:
        return change(partial(plugin.create, settings), host)

    register(replace(plugin, create=create))
