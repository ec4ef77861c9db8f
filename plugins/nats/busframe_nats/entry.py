"""One message on its way to the server."""

from typing import TYPE_CHECKING

from busframe.errors import PublishError, PublishOutcomeUnknown
from busframe.model.destination import Address

if TYPE_CHECKING:
    from busframe.spi.batch import Batch


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
        self,
        to: Address,
        subject: bytes,
        headers: bytes,
        body: bytes,
        message_id: str,
        batch: "Batch[Entry]",
        index: int,
    ) -> None:
        self.to = to
        self.subject = subject
        self.headers = headers
        self.body = body
        self.size = len(headers) + len(body)
        self.message_id = message_id
        self.batch: Batch[Entry] | None = batch
        self.index = index
        self.delayed = False
        self.reply = b""
        self.sends = 0

    def finish(self, outcome: Exception | None) -> None:
        """What became of it, to who still waits."""
        batch, self.batch = self.batch, None
        if batch is not None:
            if isinstance(outcome, PublishError) and self.sends > 1 and not isinstance(outcome, PublishOutcomeUnknown):
                # The first one may be there, although this one was refused.
                unknown = PublishOutcomeUnknown(f"sent twice, and then: {outcome.what}", message_id=self.message_id)
                unknown.__cause__ = outcome
                outcome = unknown
            batch.finish(self.index, outcome)
