"""What can be wrong with O."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from busframe.bus import opened
from busframe.bus.topology import ensure
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, harness_mutant, mutant
from busframe.errors import AccessDenied, TopologyMismatch
from busframe.memory import MemoryTransport
from busframe.model.destination import SourceAddress
from busframe.model.entity import Change, Entity
from busframe.spi.transport import Host, Transport


@mutant("declaring what exists fails", "O1", says="is there already")
class DeclaresOnce(MutantTransport):
    """As a broker's command that creates, without looking."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Everything is to be made."""
        return [Change(entity.address, "create") for entity in entities]

    async def apply(self, changes: Sequence[Change]) -> None:
        """What is there is in the way."""
        for change in changes:
            if self._host.name(change.address) in self.native.entities:  # type: ignore[attr-defined]
                raise TopologyMismatch(f"{change.address} is there already")
            await super().apply([change])


@mutant("what differs is not noticed", "O1", says="with another ordering: TopologyMismatch was expected")
class NoticesNoDifference(MutantTransport):
    """What exists is right."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Only what is missing."""
        return [change for change in await super().plan(entities) if change.action == "create"]


@mutant("a receiver makes what it consumes", "O2", says="does not exist, assumed: DestinationNotFound was expected")
class MakesWhatItConsumes(MutantReceiver):
    """As a client that declares its queue."""

    async def open(self) -> None:
        """Made first."""
        await self.transport.apply(await self.transport.plan([self.entity]))
        await self.inner.open()


@core_mutant(
    "a bus declares whatever its configuration says",
    "O2",
    says="does not exist, assumed: DestinationNotFound was expected",
    of=opened,
    attribute="ensure",
)
async def always_ensure(transport: Transport, entities: Sequence[Entity], mode: Any) -> None:
    """In each mode."""
    await ensure(transport, entities, "create")


@harness_mutant("looking needs the right to make", "O2", "V8", says="AccessDenied.*may not look")
class LooksByMaking(MemoryHarness):
    """As a broker that answers only who could have made what is there."""

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """A user whose every look is refused."""
        return partial(_Blind, broker=self.broker)


class _Blind(MemoryTransport):
    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        raise AccessDenied("this user may not look")


@mutant("purge empties all dead letters", "O3", says="4 letters in")
class PurgesAll(MutantTransport):
    """Of every source."""

    async def purge(self, source: SourceAddress) -> int:
        """With those of others."""
        count = await super().purge(source)
        for name, store in self.native.entities.items():  # type: ignore[attr-defined]
            if name.endswith("--dead"):
                store.rows.clear()
        return count


@mutant("a temporary subscription stays", "O3", says="a temporary subscription to go")
class KeepsTheTemporary(MutantReceiver):
    """It is like any other."""

    async def close(self) -> None:
        """With its consumer left there."""
        await self.inner.stop()
