"""One receiver as the broker sees it: what it holds, and how it is woken."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busframe.memory.rows import Row
    from busframe.memory.store import Store


class Consumer:
    """One receiver's lease on rows of one source. All but ``loop`` is guarded by the broker's lock.

    Attributes:
        store: what it consumes.
        held: the rows that it holds, by receipt. A receipt is an object of its own for each delivery, so one of an
            earlier delivery, generation or receiver is in no table and can never settle anything.
        generation: counts how often the broker took back what it held.
        loop: where it waits.
        arrival: what it waits for; replaced at each wait.
        due: when a delayed row becomes visible for which it should wake up by itself.
        stopped: it gets no more.
    """

    __slots__ = ("arrival", "due", "generation", "held", "loop", "stopped", "store")

    def __init__(self, store: "Store", loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.held: dict[object, Row] = {}
        self.generation = 1
        self.loop = loop
        self.arrival: asyncio.Future[None] = loop.create_future()
        self.due: float | None = None
        self.stopped = False

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """End its wait, from the loop that is running here or from any thread. Returns whether it will look again."""
        if self.arrival.done():
            return False
        if self.loop is running:
            self.arrival.set_result(None)
            return True
        try:
            self.loop.call_soon_threadsafe(_arrive, self.arrival)
        except RuntimeError:  # its loop was closed without closing the receiver
            return False
        return True


def _arrive(arrival: "asyncio.Future[None]") -> None:
    if not arrival.done():
        arrival.set_result(None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
