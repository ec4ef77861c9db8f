"""What can be wrong with P."""

from collections.abc import Sequence
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.errors import DestinationNotFound, MessageTooLarge, PublishFailed, TransportError
from busframe.model.delivery import Outgoing
from busframe.model.destination import SourceAddress
from busframe.model.entity import Stored

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
