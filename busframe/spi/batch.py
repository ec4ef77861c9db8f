"""One call of ``Transport.publish``: what is on its way for it, and what becomes of each of its messages."""

import asyncio
from typing import Generic, TypeVar

from busframe.errors import DestinationNotFound, PublishFailed
from busframe.model.delivery import Outgoing

E = TypeVar("E")


class Batch(Generic[E]):
    """The outcomes of one call, as they become known.

    It is made for each publish, so it has few parts for the garbage collector to look at.

    Args:
        size: how many messages there are.
        loop: the one that runs.

    Attributes:
        began: when, on the loop's clock, in seconds.
        entries: what is on its way for it, whatever that is to the transport.
        left: how many outcomes are not known yet.
        done: set when all are.
    """

    __slots__ = ("_failed", "_size", "began", "done", "entries", "left")

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.began = loop.time()
        self.entries: list[E] = []
        self.left = self._size = size
        self.done: asyncio.Future[None] = loop.create_future()
        self._failed: dict[int, Exception] | None = None

    def finish(self, index: int, outcome: Exception | None) -> None:
        """One outcome is known: of the message at *index*; None: the broker has confirmed it. Once for each."""
        if outcome is not None:
            if self._failed is None:
                self._failed = {}
            self._failed[index] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def outcomes(self) -> list[Exception | None]:
        """What ``Transport.publish`` returns."""
        failed = self._failed
        return [None] * self._size if failed is None else [failed.get(index) for index in range(self._size)]


def failed_alike(outgoing: Outgoing, error: Exception) -> Exception:
    """The same failure, for one of several messages that share it: each is raised by itself."""
    own: Exception
    if isinstance(error, DestinationNotFound):
        own = DestinationNotFound(str(outgoing.to), message_id=outgoing.message.id)
    elif isinstance(error, PublishFailed):
        own = PublishFailed(error.what, message_id=outgoing.message.id, transient=error.transient)
    else:
        own = type(error)(*error.args)
    own.__cause__ = error.__cause__
    return own
