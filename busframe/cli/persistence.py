"""Publishing on through an outage: until the broker has confirmed, or a time is over."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from busframe.errors import PublishFailed, PublishOutcomeUnknown
from busframe.logic.retry import Retry

if TYPE_CHECKING:
    from busframe.bus import Bus
    from busframe.model.destination import Destination
    from busframe.model.message import Message

_PAUSES = Retry(delay_s=0.2, factor=2.0, max_delay_s=5.0, jitter=0.5)


class PersistentPublisher:
    """Publishes a payload again, under the same id, while the broker does not take it or does not answer.

    A program decides for itself what an unknown outcome means to it; whoever types a command wants the message there.

    Args:
        bus: open when it is called.
        destination: where to.
        options: of ``publish``.
        timeout_s: how long to try each message, in seconds.
    """

    def __init__(self, bus: Bus, destination: Destination[Any], options: dict[str, Any], timeout_s: float) -> None:
        self.doubtful = 0
        """How many were confirmed only after an unknown outcome: these may be there twice."""
        self._bus = bus
        self._destination = destination
        self._options = options
        self._timeout_s = timeout_s

    async def __call__(self, payload: object) -> Message:
        """Publish one payload.

        Raises:
            PublishError: the last one, when the time is over; or one that trying again does not help.

        If cancelled: the message may or may not be published.
        """
        until = time.monotonic() + self._timeout_s
        message_id: str | None = None
        doubtful = False
        tries = 0
        while True:
            left_s = max(0.1, until - time.monotonic())
            try:
                message = await self._bus.publish(
                    self._destination, payload, id=message_id, timeout_s=left_s, **self._options
                )
            except PublishOutcomeUnknown as error:
                doubtful, message_id = True, error.message_id
                if time.monotonic() >= until:
                    raise
            except PublishFailed as error:
                message_id = error.message_id
                if not error.transient or time.monotonic() >= until:
                    raise
            else:
                self.doubtful += doubtful
                return message
            tries += 1
            await asyncio.sleep(_PAUSES.delay_after(tries, random.random()))
