"""What can be wrong with what operators do and read."""

import logging
from collections.abc import Sequence
from typing import Any

from busframe.bus import opened
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, harness_mutant, mutant
from busframe.conformance.world import PREFIX
from busframe.logic.names import physical_name
from busframe.memory import topology
from busframe.model.delivery import Delivery
from busframe.model.destination import Address
from busframe.model.entity import Change, Entity
from busframe.model.settlement import Nack, Settlement
from busframe.runtime.source import SourceRunner
from busframe.runtime.worker import Health, Worker


@mutant("looking makes what is missing", "V8", says="exists on the broker, although nobody")
class MakesWhenItLooks(MutantTransport):
    """As a client library that declares to find out."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Makes the changes, and tells them."""
        changes = await super().plan(entities)
        await self.apply(changes)
        return changes


@mutant("nothing is ever missing", "V8", says="TopologyMismatch was expected when the bus opens, and it opened")
class SeesNoDifference(MutantTransport):
    """As a transport whose plan is not written yet."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Sees no difference."""
        return []


@core_mutant(
    "limits are not compared", "V9", says="Unsupported was expected when the bus opens", of=opened, attribute="unmet"
)
def compares_nothing(*arguments: Any) -> list[str]:
    """In place of the comparison with the transport's claims."""
    return []


@mutant("every retry is a warning", "V12", says="retries logged above INFO: .*'negatively")
class WarnsOfRetries(MutantReceiver):
    """As a client library that takes a nack for a failure."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Says each one."""
        for _, settlement in settled:
            if isinstance(settlement, Nack):
                logging.getLogger("busframe.mutant").warning("negatively acknowledged")
        return await self.inner.settle(settled)


@core_mutant("health fails while it works", "V12", says="a look at the health raised", of=Worker, attribute="health")
def fails_to_tell_health(worker: Worker) -> Health:
    """In place of the snapshot."""
    raise RuntimeError(f"no health of {worker}")


@core_mutant(
    "concurrency is as it was",
    "V13",
    says="not within .*4 handlers run at once",
    of=SourceRunner,
    attribute="set_concurrency",
)
def keeps_its_concurrency(runner: SourceRunner, concurrency: int) -> None:
    """In place of more or fewer slots."""


@core_mutant("a pause only says so", "V13", says="nothing is handled while", of=SourceRunner, attribute="pause")
async def pauses_in_name(runner: SourceRunner) -> None:
    """In place of the pause."""
    runner.state = "paused"


@mutant("a subscription keeps nothing while nobody consumes", "V13", says="not within .*what came meanwhile")
class DropsWhileAway(MutantReceiver):
    """As a subscription that goes with its consumer."""

    async def open(self) -> None:
        """Begins afresh."""
        await self.inner.open()
        await self.transport.purge(self.entity.address)  # type: ignore[arg-type]


@core_mutant("names are not compared", "V26", says="InvalidName was expected", of=opened, attribute="find_collisions")
def finds_no_collision(addresses: object) -> list[str]:
    """In place of the comparison of names."""
    return []


@harness_mutant(
    "what the retention drops is skipped silently", "V27", says="an error that says that 7 messages were lost"
)
class ForgetfulHarness(MemoryHarness):
    """A memory broker with a retention that nobody is told of."""

    async def expire(self, source: Address, name: str) -> None:
        """Rows vanish."""
        self._store(name).rows.clear()


@harness_mutant(
    "an operator's limit on deliveries is not looked at",
    "V9",
    says="ConfigurationError or Unsupported was expected when the bus opens, and it opened",
)
class CarelessHarness(MemoryHarness):
    """A memory broker with a limit of an operator's own that the transport does not look at."""

    async def native_limited(self, source: Address, name: str) -> bool:
        """A queue as any other, but for the limit that is thought of."""
        topology.apply(self.broker, [Change(source, "create")], lambda address: physical_name(address, PREFIX))
        return True
