"""What can be wrong with R: of a transport, and of a harness."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, harness_mutant, mutant
from busframe.errors import TransportError, Unsupported
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, SourceAddress
from busframe.model.entity import Stats, Stored
from busframe.model.settlement import Nack, Settlement

DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreCapabilities(Capabilities):
    """With one that no check knows."""

    teleports: bool = True


@mutant("a capability is claimed that nothing measures", "R1", says="measured by no check .*teleports")
class ClaimsMore(MutantTransport):
    """It is not even a call."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.capabilities = MoreCapabilities(**asdict(self.capabilities))


@mutant("what is not claimed is answered with nothing", "R2", says="stats is not claimed: Unsupported was expected")
class AnswersWithNothing(MutantTransport):
    """Instead of a refusal."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.capabilities = replace(self.capabilities, stats=False)

    async def stats(self, source: SourceAddress) -> Stats:
        """As if nothing was there."""
        return Stats()


@mutant("a delay that is not claimed is ignored", "R2", says="publish_delay_max_s is not claimed")
class IgnoresUnclaimedDelays(MutantTransport):
    """The message comes at once."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.capabilities = replace(self.capabilities, publish_delay_max_s=0.0)


@mutant("statistics are claimed, and say nothing", "R3", says="are there; statistics say")
class ClaimsStatistics(MutantTransport):
    """A capability that is a no-op."""

    async def stats(self, source: SourceAddress) -> Stats:
        """Nothing of it."""
        return Stats(depth=0)


class _ClaimsADay(MutantTransport):
    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.capabilities = replace(
            self.capabilities, publish_delay_max_s=DAY_S, nack_delay_max_s=DAY_S, hold_max_s=DAY_S
        )


@mutant("a delay is claimed of one second more than is kept", "R3", says="a publish with a delay of 86400 s")
class ClaimsASecondMore(_ClaimsADay):
    """As a limit that is compared with less than."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Refused at the edge."""
        if any(out.delay_s >= DAY_S for out in outgoing):
            return [Unsupported("it is too long")] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)


class _ShortNacks(MutantReceiver):
    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        if any(isinstance(settlement, Nack) and settlement.delay_s >= DAY_S for _, settlement in settled):
            return [TransportError("it is too long")] * len(settled)
        return await self.inner.settle(settled)


@mutant("a nack's delay is claimed of one second more than is kept", "R3", says="a nack with a delay of 86400 s")
class ClaimsLongerNacks(_ClaimsADay):
    """The same, of a settlement."""

    receivers = _ShortNacks


@mutant("browse is claimed, and shows nothing", "R3", says="browse shows 0 messages")
class ClaimsToBrowse(MutantTransport):
    """A capability that is a no-op."""

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Nothing of queues."""
        return await super().browse(source, after=after, limit=limit) if source.address.endswith("dead") else ()


@harness_mutant("the harness finds nothing that exists", "R4", says="the opposite of whether")
class FindsNothing(MemoryHarness):
    """So that every publish to it seems to go nowhere."""

    async def native_exists(self, to: Address, name: str) -> bool:
        """Never."""
        return False


@harness_mutant("the harness finds everything", "R4", says="the opposite of whether")
class FindsEverything(MemoryHarness):
    """What is nonexistent is made up."""

    async def native_exists(self, to: Address, name: str) -> bool:
        """Always."""
        return True


@harness_mutant("the harness publishes nothing", "R4", says="0 of 1 messages came")
class PublishesNothing(MemoryHarness):
    """So that nothing foreign is ever received."""

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """Nothing."""


@harness_mutant("the harness reads what nobody published", "R4", says="and the harness read")
class ReadsNothing(MemoryHarness):
    """As a stub."""

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """Always the same."""
        return b"", {}
