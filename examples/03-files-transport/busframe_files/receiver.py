"""One consumer: what it holds is in a folder of its own, whose time of change is its sign of life."""

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from busframe import errors, spi
from busframe_files.stored import LATEST_US, Name, decode, encode, new_position

if TYPE_CHECKING:
    from busframe_files.transport import Files


class FilesReceiver(spi.Receiver):
    """Takes a message by renaming its file into its own folder: of several consumers one succeeds.

    The lease is of the folder, so a lost one is lost as a whole: whoever takes it back renames the folder first, and
    from then on nothing that was in it can be settled, however late its owner wakes up.
    """

    def __init__(self, files: "Files", source: spi.SourceAddress, *, before: bool) -> None:
        self.closed = False
        self._files, self._source, self._before = files, source, before
        self._folder = files.folder(source)
        self._held = self._folder / "held" / "none yet"
        self._generation = 0
        self._holding: dict[object, Path] = {}
        self._taken: deque[spi.Delivery] = deque()  # what a cancelled receive has taken, for the next one
        self._stopped = True
        self._alive: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to consume."""
        if self.closed:
            raise errors.ClosedError(f"the receiver of {self._source} is closed")
        await self._files.run(self._renew)
        self._stopped = False
        self._alive = asyncio.create_task(self._stay_alive())

    # ---------------------------------------------------------------------------------------------------- lease

    async def _stay_alive(self) -> None:
        while True:
            await self._files.host.sleep(self._files.settings.lease_s / 4)
            with suppress(errors.BusframeError):  # receive meets the same error, and raises it
                await self._files.run(self._renew)

    def _renew(self) -> None:
        """Show that this consumer is alive, and take back what others hold that are not."""
        described = self._files.described(self._source)
        self.where = described["where"] if isinstance(self._source, spi.Subscription) else None
        try:
            os.utime(self._held)
        except FileNotFoundError:  # the first time; or the lease ran out: what was held is not ours any more
            self._generation += 1
            self._holding.clear()
            self._held = self._folder / "held" / f"by-{self._files.host.instance}-{uuid4().hex[:12]}"
            self._held.mkdir()
        now = self._held.stat().st_mtime  # the file system's clock: machines that share it need not agree
        for other in self._held.parent.iterdir():
            with suppress(FileNotFoundError):
                if now - other.stat().st_mtime > self._files.settings.lease_s:
                    self._take_back(other)

    def _take_back(self, held: Path) -> None:
        gone = held.with_name(f"gone-{uuid4().hex}")
        held.rename(gone)
        for file in gone.iterdir():
            with suppress(FileNotFoundError):
                file.rename(self._folder / "ready" / file.name)
        with suppress(OSError):  # its owner was just taking a message: it is in there, for the next round
            gone.rmdir()

    # ------------------------------------------------------------------------------------------------ receiving

    async def receive(self, limit: int) -> Sequence[spi.Delivery]:
        """Wait for messages, looking every ``poll_s``."""
        while True:
            if not self._stopped and not self._taken:
                await self._files.run(self._take, limit)
            if self._stopped:
                raise errors.ClosedError(f"the receiver of {self._source} is not open")
            taken = [self._taken.popleft() for _ in range(min(limit, len(self._taken)))]
            if self._before:  # an unlink each, without a wait in which a cancellation could lose what is settled
                taken = [delivery for delivery in taken if self._settle(delivery, spi.ACK) is None]
            if taken:
                return taken
            await self._files.host.sleep(self._files.settings.poll_s)

    def _take(self, limit: int) -> None:
        ready = self._folder / "ready"
        try:
            self._renew()
            names = os.listdir(ready)
        except FileNotFoundError:
            self._files.described(self._source)  # where the source itself went away meanwhile, that is what it raises
            raise
        now_us = int(self._files.host.clock() * 1e6)
        due = [(Name.parse(name) or Name(0, 0, ""), name) for name in names if not name.startswith(".")]
        for (due_us, deliveries, position), name in sorted(entry for entry in due if entry[0].due_us <= now_us):
            if len(self._taken) >= limit or self._stopped:
                return
            position = position or new_position(now_us)  # a foreign one gets a name of ours when it is first taken
            held = self._held / str(Name(due_us, deliveries + 1, position))
            with suppress(FileNotFoundError):  # another consumer was faster, or the lease was lost in this moment
                os.rename(ready / name, held)
                message, carried = decode(held.read_bytes(), position)
                receipt = object()  # one for each delivery, so an old one settles nothing
                self._holding[receipt] = held
                self._taken.append(spi.Delivery(message, receipt, position, deliveries + 1, self._generation, carried))

    # ------------------------------------------------------------------------------------------------- settling

    async def settle(self, settled: Sequence[tuple[spi.Delivery, spi.Settlement]]) -> Sequence[Exception | None]:
        """Settle what this receiver holds."""
        return await self._files.run(lambda: [self._settle(*each) for each in settled])

    def _settle(self, delivery: spi.Delivery, settlement: spi.Settlement) -> Exception | None:
        held = self._holding.pop(delivery.receipt, None)
        if held is None or not held.exists():
            return errors.SettlementLost(f"{delivery.message.id!r} is not held by this receiver any more")
        try:
            failed = self._do(held, delivery, settlement)
        except FileNotFoundError:
            return errors.SettlementLost(f"the lease of {delivery.message.id!r} ran out")
        except OSError as error:
            failed = errors.TransportError(f"{self._source}: {error}")
        if failed is not None:
            self._holding[delivery.receipt] = held  # as it was: it may be settled again
        return failed

    def _do(self, held: Path, delivery: spi.Delivery, settlement: spi.Settlement) -> Exception | None:
        files, ready = self._files, self._folder / "ready"
        match settlement:
            case spi.Ack():
                held.unlink()
            case spi.Release():
                held.rename(ready / held.name)
            case spi.Nack(delay_s=delay_s, carried=carried):
                # First the new content under the old name, then the new name: at no time are there two, or none.
                files.replace(held, encode(delivery.message, carried))
                name = Name.parse(held.name) or Name(0, 0, delivery.position)
                due_us = name.due_us if delay_s <= 0 else int((files.host.clock() + delay_s) * 1e6)
                held.rename(ready / str(Name(min(due_us, LATEST_US), 0, name.position)))
            case spi.DeadLetter(carried=carried):
                # The letter first: a crash between the two leaves both.
                (failed,) = files.store([spi.Outgoing(self._source.dead_letters, delivery.message, carried=carried)])
                if failed is not None:
                    return failed
                held.unlink()
        return None

    # -------------------------------------------------------------------------------------------------- the end

    async def stop(self) -> None:
        """Take no more; what no ``receive`` has returned goes back."""
        self._stopped = True
        with suppress(errors.ClosedError):
            await self._files.run(self._return_taken)

    def _return_taken(self) -> None:
        while self._taken:
            self._settle(self._taken.popleft(), spi.Release())

    async def close(self) -> None:
        """What is held goes back at once, as a whole."""
        self.closed = self._stopped = True
        alive, self._alive = self._alive, None
        if alive is not None:
            alive.cancel()
            await asyncio.wait((alive,))
        try:
            await self._files.run(self._give_back)
        except errors.ClosedError:  # the client was closed first: its thread has ended, and nobody else is at work here
            self._give_back()

    def _give_back(self) -> None:
        self._holding.clear()
        self._taken.clear()
        with suppress(FileNotFoundError):
            self._take_back(self._held)
