"""The dead letters of a source: looked at, sent back, removed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from busframe.bus.opened import OpenBus
from busframe.errors import ConfigurationError, PublishError, PublishOutcomeUnknown
from busframe.logic.batching import batches
from busframe.logic.filters import matches
from busframe.logic.names import body_position, dedup_key
from busframe.logic.wire import REPLAYS
from busframe.model.delivery import Outgoing
from busframe.model.destination import (
    DeadLetters,
    Destination,
    Queue,
    Source,
    SourceAddress,
    Subscription,
    Topic,
    Where,
)
from busframe.model.message import Message

PAGE = 100
REPLAY_TIMEOUT_S = 30.0
WINDOW_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One dead letter.

    Attributes:
        position: names it to the broker, for ``replay`` and ``purge``.
        message: as it was published; ``message.dead`` says why it is here.
    """

    position: str
    message: Message


class DeadLetterBox:
    """The dead letters of one source. Made by ``bus.dead_letters(source)``; works while the bus is open."""

    def __init__(self, source: Source[Any], opened: Callable[[], OpenBus]) -> None:
        of = source.of if isinstance(source, DeadLetters) else source
        if not isinstance(of, Queue | Subscription):
            raise ConfigurationError(f"{source!r} has no dead letters: give a queue or a subscription")
        self._of: Queue[Any] | Subscription[Any] = of
        self._letters: SourceAddress = of.dead_letters
        self._opened = opened

    def __repr__(self) -> str:
        return f"<DeadLetterBox of {self._of}>"

    async def list(
        self,
        *,
        reason: str | None = None,
        error_type: str | None = None,
        where: Where | None = None,
        limit: int = 100,
    ) -> AsyncIterator[DeadLetterRecord]:
        """Look at the letters, oldest first, without taking any.

        Args:
            reason: only those that were given up for this reason, such as ``attempts``.
            error_type: only those whose last error was of this class, such as ``ValueError``.
            where: only those whose headers match, as in a subscription's ``where``.
            limit: the most to give.

        Raises:
            DestinationNotFound: the source does not exist on the broker.
            ClosedError: the bus is not open.
        """
        given = 0
        seen: set[str] = set()
        after = ""
        while given < limit:
            page = await self._opened().transport.browse(self._letters, after=after, limit=PAGE)
            new = [stored for stored in page if stored.position not in seen]
            if not new:  # the end; or letters were removed meanwhile, and the broker begins anew
                return
            for stored in new:
                seen.add(stored.position)
                after = stored.position
                dead = stored.message.dead
                if (
                    (reason is None or (dead is not None and dead.reason == reason))
                    and (error_type is None or (dead is not None and dead.error_type == error_type))
                    and (where is None or matches(where, stored.message.headers))
                    and given < limit
                ):
                    given += 1
                    yield DeadLetterRecord(stored.position, stored.message)

    async def replay(
        self,
        records: Iterable[DeadLetterRecord],
        *,
        to: Destination[Any] | None = None,
        rate_per_s: float | None = None,
    ) -> int:
        """Send letters back to be handled again: a copy is confirmed first, then the letter is removed.

        A replayed message begins at its first attempt, keeps its id, and carries how often it was replayed.

        Args:
            records: which, as ``list`` gave them.
            to: where; None: to the source that they come from, and to no other subscription.
            rate_per_s: at most so many a second; None: as fast as the broker takes them.

        Returns:
            How many were sent.

        Raises:
            PublishError: of the first one that was not confirmed; it, and those after it, stay where they are.
            TransportError: the letters could not be removed; those that were sent would be sent again.
            ClosedError: the bus is not open.

        If cancelled: some may have been sent and not removed; a crash leaves the same. None is lost.
        """
        sent = 0
        pause_s = 1 / rate_per_s if rate_per_s else 0.0
        windows = batches(
            records,
            size_of=lambda record: len(record.message.body),
            max_items=1 if rate_per_s else PAGE,
            max_bytes=WINDOW_BYTES,
        )
        for window in windows:
            transport = self._opened().transport
            copies = [self._copy(record, to) for record in window]
            outcomes = await transport.publish(copies, timeout_s=REPLAY_TIMEOUT_S)
            confirmed = [record.position for record, outcome in zip(window, outcomes, strict=True) if outcome is None]
            if confirmed:
                await transport.remove(self._letters, confirmed)
            sent += len(confirmed)
            failed = next((outcome for outcome in outcomes if outcome is not None), None)
            if failed is not None:
                raise _error(failed, sent)
            if pause_s:
                await asyncio.sleep(pause_s)
        return sent

    def _copy(self, record: DeadLetterRecord, to: Destination[Any] | None) -> Outgoing:
        message = record.message
        number = (message.dead.replays if message.dead is not None else 0) + 1
        address: SourceAddress | Topic[Any] = self._of
        carried = {REPLAYS: str(number)}
        if isinstance(to, Queue | Topic):
            # Elsewhere it is a message like any other: no count of this source travels with it.
            address, carried = to, {}
        elif to is not None:
            raise ConfigurationError(f"{to!r} is not a queue or a topic: letters are replayed to those")
        position = record.position or body_position(message.id, message.body)
        key = dedup_key(message.id, "replay", str(self._of), number, position)
        return Outgoing(address, replace(message, dead=None), dedup_key=key, carried=carried)

    async def purge(self, records: Iterable[DeadLetterRecord] | None = None) -> int:
        """Remove letters for good.

        Args:
            records: which, as ``list`` gave them; None: all.

        Returns:
            How many were removed.
        """
        transport = self._opened().transport
        if records is None:
            return await transport.purge(self._letters)
        return await transport.remove(self._letters, [record.position for record in records])


def _error(failed: Exception, sent: int) -> Exception:
    failed.add_note(f"{sent} letters were replayed before it")
    if isinstance(failed, PublishError):
        return failed
    unknown = PublishOutcomeUnknown(str(failed))
    unknown.__cause__ = failed
    return unknown
