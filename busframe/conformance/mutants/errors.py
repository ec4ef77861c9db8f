"""What can be wrong with P."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from busframe.conformance.clients import PREFIX
from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, harness_mutant, mutant
from busframe.errors import AccessDenied, DestinationNotFound, MessageTooLarge, PublishFailed, TransportError
from busframe.logic.names import physical_name
from busframe.memory import MemoryTransport, topology
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address, SourceAddress
from busframe.model.entity import Change, Entity, Stored
from busframe.spi.transport import Host, Receiver, Transport

Outcomes = Sequence[Exception | None]


@mutant("what is missing is a failure like any other", "P1", says="is not there: DestinationNotFound was expected")
class HasOneError(MutantReceiver):
    """Who reads classes learns nothing."""

    async def open(self) -> None:
        """Whatever went wrong."""
        try:
            await self.inner.open()
        except DestinationNotFound as error:
            raise TransportError(str(error)) from error


@mutant("what is too large may succeed later", "P1", says="MessageTooLarge was expected, not PublishFailed")
class TooLargeForNow(MutantTransport):
    """As an answer of the broker that was not looked at."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """Another class."""
        outcomes = await super().publish(outgoing, timeout_s=timeout_s)
        return [PublishFailed() if isinstance(outcome, MessageTooLarge) else outcome for outcome in outcomes]


@harness_mutant("any password will do", "P1", says="a wrong password: AccessDenied was expected, not None")
class LetsAnybodyIn(MemoryHarness):
    """As a server whose authentication was turned off."""

    def url_with_bad_password(self) -> str:
        """It is as good as any."""
        return "memory://"


@harness_mutant(
    "who may do nothing does it",
    "P1",
    "O2",
    says="the right: AccessDenied was expected, not None|AccessDenied was expected when the bus opens",
)
class KnowsNoRights(MemoryHarness):
    """Every user may do everything."""

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """A user like any other."""
        return self.transport


@harness_mutant(
    "what is refused to a user may succeed later",
    "P1",
    says="without the right: waiting is no use, and the error denies",
)
class RefusesForNow(MemoryHarness):
    """As a refusal that is taken for a lost connection."""

    async def native_user(self, *, may_use: bool) -> Callable[[Host], Transport]:
        """A user whom every receiver refuses."""
        return partial(_RefusingForNow, broker=self.broker)


class _RefusingForNow(MemoryTransport):
    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        inner = super().receiver(entity, prefetch=prefetch, ack=ack)

        async def refuse() -> None:
            raise AccessDenied(transient=True)

        inner.open = refuse  # type: ignore[method-assign]
        return inner


@harness_mutant("what is full takes more", "P1", says="a publish to what is full: Backpressure was expected, not None")
class TakesEverything(MemoryHarness):
    """As a queue whose limit drops the oldest."""

    async def native_full(self, source: Address, name: str) -> None:
        """A queue like any other."""
        topology.apply(self.broker, [Change(source, "create")], lambda address: physical_name(address, PREFIX))


@mutant("what a look-up raised escapes", "P2", says="an error escaped that is not busframe's: KeyError")
class LetsKeysEscape(MutantTransport):
    """As a client library's own error."""

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Not translated."""
        try:
            return await super().browse(source, after=after, limit=limit)
        except DestinationNotFound as error:
            raise KeyError(str(source)) from error


@mutant("there is no native client", "P2", says="the native client cannot be had")
class HidesItsClient(MutantTransport):
    """It keeps it to itself."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "native":
            super().__setattr__(name, value)
