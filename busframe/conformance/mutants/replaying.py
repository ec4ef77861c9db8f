"""What can be wrong with looking at dead letters and sending them back."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from busframe.conformance.mutants.mutant import MutantTransport, mutant
from busframe.logic.wire import REPLAYS
from busframe.model.delivery import Outgoing
from busframe.model.destination import SourceAddress, Subscription
from busframe.model.entity import Stored


@mutant(
    "a look takes what it shows", "V14", "V21", says=r"not within .*\d dead letters|in list 1 the dead letters have"
)
class TakesWhenItLooks(MutantTransport):
    """As a client that gets and acknowledges."""

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Removes what it returns."""
        found = await super().browse(source, after=after, limit=limit)
        await self.remove(source, [stored.position for stored in found])
        return found


@mutant(
    "who removes one letter removes those before it",
    "V14",
    says="not within .*2 dead letters|not within .*5 dead letters",
)
class RemovesUpToIt(MutantTransport):
    """As an acknowledgement of all tags up to this one."""

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """With the older ones."""
        places = [stored.position for stored in await super().browse(source)]
        upto = max((places.index(position) for position in positions if position in places), default=-1)
        await super().remove(source, places[: upto + 1])
        return len(positions)


@mutant("who removes one letter puts the others back in reverse", "V14", says="purged, and the others were .* and are")
class PutsBackInReverse(MutantTransport):
    """As one that gives back, one by one, what it took to find the letter."""

    removed = False

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """From now on the other way round."""
        self.removed = True
        return await super().remove(source, positions)

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """As they are now."""
        found = await super().browse(source, after=after, limit=limit)
        return found[::-1] if self.removed else found


@mutant("a look counts as a delivery, and the broker gives up after 20", "V21", says="in list 2. the dead letters have")
class WearsOut(MutantTransport):
    """As a quorum queue whose delivery limit nobody raised."""

    looks = 0

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Finds nothing after 20 looks that found something."""
        found = await super().browse(source, after=after, limit=limit)
        self.looks += bool(found)
        if self.looks > 20:
            await self.purge(source)
        return found


class _ChangesReplays(MutantTransport):
    """Does something to the copies that a replay makes."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Changes them."""
        return await super().publish(
            [self.change(out) if REPLAYS in out.carried else out for out in outgoing], timeout_s=timeout_s
        )

    def change(self, out: Outgoing) -> Outgoing:
        """What becomes of one."""
        raise NotImplementedError


@mutant(
    "a replay has a new id", "V14", says="says how often it was replayed|after a replay that failed again have the ids"
)
class RenamesReplays(_ChangesReplays):
    """As a client that forwards the body."""

    def change(self, out: Outgoing) -> Outgoing:
        """Under a new id."""
        return replace(out, message=replace(out.message, id=uuid4().hex))


@mutant("replays are not counted", "V14", says="not within .*says how often it was replayed")
class CountsNoReplays(_ChangesReplays):
    """As a transport that drops what it does not know."""

    def change(self, out: Outgoing) -> Outgoing:
        """Without the count."""
        return replace(out, carried={})


@mutant("a replay is not waited for", "V14", says="a replay to what does not exist was confirmed")
class ConfirmsReplays(MutantTransport):
    """As a publish without confirms."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Confirms copies, whatever happens."""
        outcomes = await super().publish(outgoing, timeout_s=timeout_s)
        return [None if out.dedup_key else outcome for out, outcome in zip(outgoing, outcomes, strict=True)]


@mutant("a replayed letter stays", "V14", says="4 dead letters of .*, not 3")
class RemovesNothing(MutantTransport):
    """As a transport whose positions name nothing."""

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """Only counts."""
        return len(positions)


@mutant("copies are looked up by their id among the writes", "V17", says="not within .*: replay 1 is stored")
class TakesReplaysForDuplicates(MutantTransport):
    """As a transport that gives the broker the message's id as the key of the write."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Without a key of their own."""
        return await super().publish([replace(out, dedup_key="") for out in outgoing], timeout_s=timeout_s)


@mutant("replays go to the topic", "V23", says="the replay reached another subscription")
class ReplaysToAll(_ChangesReplays):
    """As a client that knows where the letter was published to."""

    def change(self, out: Outgoing) -> Outgoing:
        """To every subscription."""
        return replace(out, to=out.to.topic) if isinstance(out.to, Subscription) else out
