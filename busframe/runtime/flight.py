"""One delivery on its way through a worker."""

from typing import TYPE_CHECKING

from busframe.model.delivery import Delivery

if TYPE_CHECKING:
    import asyncio

    from busframe.model.settlement import Settlement
    from busframe.runtime.handle import InLane
    from busframe.spi.transport import Receiver


class Flight:
    """A delivery with what the worker knows of it. Mutable, and used by one coroutine at a time.

    Attributes:
        delivery: as received; a failure that is recorded in the lane replaces its ``carried``.
        receiver: where it came from, and where it is settled.
        lane: the key whose lane it holds; None: no lane.
        settlement: what becomes of it, once that is decided.
        settled: holds how settling ended (None: well); only where somebody waits for that.
        kept: settled by hand as something that its lane does: wait for a retry, pause.
    """

    __slots__ = ("delivery", "kept", "lane", "receiver", "settled", "settlement", "tries")

    def __init__(self, delivery: Delivery, receiver: "Receiver", lane: str | None) -> None:
        self.delivery = delivery
        self.receiver = receiver
        self.lane = lane
        self.settlement: Settlement | None = None
        self.settled: asyncio.Future[Exception | None] | None = None
        self.kept: InLane | None = None
        self.tries = 0
