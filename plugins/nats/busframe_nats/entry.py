"""One message on its way to the server, and the call of ``publish`` that waits for it."""

import asyncio

from busframe.errors import PublishFailed, PublishOutcomeUnknown
from busframe.model.destination import Address


class Batch:
    """The outcomes of one call of ``publish``; ``done`` when all are known; ``began`` on the loop's clock."""

    __slots__ = ("began", "done", "left", "outcomes")

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.began = loop.time()
        self.outcomes: list[Exception | None] = [None] * size
        self.left = size
        self.done: asyncio.Future[None] = loop.create_future()

    def finish(self, index: int, outcome: Exception | None) -> None:
        """One outcome is known."""
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class Entry:
    """One message on its way."""

    __slots__ = (
        "batch",
        "body",
        "delayed",
        "headers",
        "index",
        "message_id",
        "reply",
        "sends",
        "size",
        "subject",
        "to",
    )

    def __init__(
        self, to: Address, subject: bytes, headers: bytes, body: bytes, message_id: str, batch: Batch, index: int
    ) -> None:
        self.to = to
        self.subject = subject
        self.headers = headers
        self.body = body
        self.size = len(headers) + len(body)
        self.message_id = message_id
        self.batch: Batch | None = batch
        self.index = index
        self.delayed = False
        self.reply = b""
        self.sends = 0

    def finish(self, outcome: Exception | None) -> None:
        """What became of it, to who still waits."""
        batch, self.batch = self.batch, None
        if batch is not None:
            if isinstance(outcome, PublishFailed) and self.sends > 1:
                # The first one may be there, although this one was refused.
                unknown = PublishOutcomeUnknown(f"sent twice, and then: {outcome.what}", message_id=self.message_id)
                unknown.__cause__ = outcome
                outcome = unknown
            batch.finish(self.index, outcome)
