"""What can be wrong with N."""

import asyncio
from collections.abc import Sequence
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.errors import ClosedError
from busframe.model.delivery import Delivery, Outgoing
from busframe.runtime.slots import Slots
from busframe.spi.transport import Receiver

Outcomes = Sequence[Exception | None]


@mutant("stopping hands back what is being handled", "N1", "N7", says="unexpected message")
class DropsWhatRuns(MutantReceiver):
    """Stop is close."""

    async def stop(self) -> None:
        """Everything goes back."""
        await self.inner.close()


async def wait_for_nobody(self: Slots) -> None:
    """Quiet at once."""


core_mutant(
    "a drain does not wait for handlers", "N1", "N7", says="ended while a handler ran", of=Slots, attribute="wait_quiet"
)(wait_for_nobody)


@mutant("what is prefetched stays with a receiver that is stopped", "N2", says="of 9 messages came")
class KeepsItsBuffer(MutantReceiver):
    """It fetches ahead, and gives nothing back before it closes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.buffer: list[Delivery] = []

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Out of the buffer."""
        if not self.buffer:
            self.buffer += await self.inner.receive(5)
        taken, self.buffer = self.buffer[:limit], self.buffer[limit:]
        return taken

    async def stop(self) -> None:
        """Nothing goes back."""
        self.buffer.clear()
        await self.inner.stop()


@mutant("a receiver that is stopped goes on", "N2", says="a receiver that was stopped gave")
class ReceivesOn(MutantReceiver):
    """Stop does nothing."""

    async def stop(self) -> None:
        """Only close ends it."""


@mutant("a publish is confirmed before it is stored, and close forgets the rest", "N3", says="messages came")
class ForgetsAtClose(MutantTransport):
    """It writes behind, in batches."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.behind: list[Outgoing] = []

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """Stored when there are enough."""
        self.behind += outgoing
        if len(self.behind) >= 20:
            batch, self.behind = self.behind, []
            await super().publish(batch, timeout_s=timeout_s)
        return [None] * len(outgoing)


@mutant("close cuts publishes off", "N3", says="begun before the close ended as")
class CutsPublishesOff(MutantTransport):
    """What is not stored when it closes fails."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """After a turn of the loop."""
        await asyncio.sleep(0.01)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("a second close fails", "N4", says="closing (it again|a client three times at once) failed")
class ClosesOnce(MutantTransport):
    """It closes what is closed."""

    _is_closed = False

    async def close(self) -> None:
        """Once."""
        if self._is_closed:
            raise ClosedError("closed already")
        self._is_closed = True
        await super().close()


@mutant("closing a client that was never opened fails", "N4", says="before it was opened failed")
class ClosesOnlyWhatIsOpen(MutantTransport):
    """It closes what is not there."""

    _was_opened = False

    async def open(self) -> None:
        """From now on it can be closed."""
        self._was_opened = True
        await super().open()

    async def close(self) -> None:
        """Not before."""
        if not self._was_opened:
            raise AttributeError("'NoneType' object has no attribute 'close'")
        await super().close()


_left: list["asyncio.Task[None]"] = []


@mutant("each client leaves a task behind", "N5", says="what 50 cycles left behind")
class LeavesTasks(MutantTransport):
    """A heartbeat that nobody ends."""

    async def open(self) -> None:
        """With a task."""
        await super().open()
        _left.append(asyncio.create_task(asyncio.sleep(20)))


@mutant("each receiver leaves its consumer on the broker", "N5", says="consumers of closed clients")
class LeavesConsumers(MutantTransport):
    """Nobody cancels it."""

    async def open(self) -> None:
        """As the other one."""
        await super().open()

    def receiver(self, *args: Any, **named: Any) -> Receiver:
        """With a second consumer beside its own."""
        receiver = super().receiver(*args, **named)
        store = self.native.entities[self._host.name(args[0].address)]  # type: ignore[attr-defined]
        consumer = self.native.attach(store, asyncio.get_running_loop())  # type: ignore[attr-defined]
        consumer.stopped = True
        return receiver


@mutant("a closed client confirms publishes", "N6", says="publish of a closed client gave")
class ConfirmsWhenClosed(MutantTransport):
    """It keeps them for a connection that never comes."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """Confirmed."""
        if self._broker is None:
            return [None] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)
