"""One record on its way, and what an error says of it."""

from typing import TYPE_CHECKING, Any

from busframe.errors import (
    DestinationNotFound,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
)
from busframe_kafka.client import DENIED, UNKNOWN_TOPIC, KafkaError, KafkaException, error_of, translate
from busframe_kafka.mapping import OwnHeaders, WireHeaders, wire_bytes

if TYPE_CHECKING:
    from busframe.spi.batch import Batch
    from busframe_kafka.handle import Handle

NO_WRITE = ", as these credentials have the right to write to no topic at all"


class Entry:
    """One record on its way.

    Attributes:
        index: of its outcome in its batch.
        address: what the application calls its destination.
        sent: who has it, with a copy of key, value and headers, which are let go here; None: it was surely not sent.
        batch: who waits for it; None: nobody any more.
    """

    __slots__ = ("address", "batch", "headers", "index", "key", "message_id", "sent", "size", "topic", "value")

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: OwnHeaders | WireHeaders,
        index: int = 0,
        size: int = 0,
        address: object = "",
        message_id: str = "",
    ) -> None:
        self.topic = topic
        self.key = key
        self.value = value
        self.headers: OwnHeaders | WireHeaders | None = headers
        self.index = index
        self.size = size or wire_bytes(headers, key, value or b"")
        self.address = address or topic
        self.message_id = message_id
        self.batch: Batch[Entry] | None = None
        self.sent: Handle | None = None

    def finish(self, error: object) -> None:
        """Tell who waits, if somebody does; None: it is stored."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.finish(self.index, None if error is None else outcome_of(error, self))

    def __call__(self, error: Any, message: Any) -> None:
        """The client's callback, on any thread: its report."""
        try:
            handle = self.sent
            if handle is not None:
                handle.reports.append((self, error))
                if not handle.woken:
                    handle.wake()
        except BaseException:  # nothing may leave a callback; a report that is not heard ends as unknown, in its time
            pass

    def expire(self) -> None:
        """Its time is over."""
        if self.sent is not None:
            self.finish(PublishOutcomeUnknown("no answer came in time", message_id=self.message_id))
        else:
            self.finish(PublishFailed("there was no room in time; nothing was sent", message_id=self.message_id))


def outcome_of(error: object, record: Entry) -> Exception:
    """What an error says of its record. By the code alone: the client has retried all that can be retried.

    What is not known to mean that nothing was stored, is unknown: an earlier attempt may have been.
    """
    if isinstance(error, PublishError):
        return error
    found = error_of(error)
    code = found.code() if found is not None else None
    failed: PublishError
    if code in UNKNOWN_TOPIC:
        failed = DestinationNotFound(str(record.address), message_id=record.message_id)
    elif code in _TOO_LARGE:
        failed = MessageTooLarge(record.size, record.size - 1, message_id=record.message_id)
    elif found is not None and code in DENIED:
        why = NO_WRITE if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED else ""
        error = translate(KafkaException(found), f"{record.topic!r} cannot be written{why}")
        failed = PublishFailed(str(error), message_id=record.message_id, transient=False)
    elif found is not None and code in _NOT_STORED:
        failed = PublishFailed(found.str(), message_id=record.message_id, transient=False)
    elif found is None and record.sent is None:
        failed = PublishFailed(f"it could not be sent: {error}", message_id=record.message_id)
    else:
        text = found.str() if found is not None else error
        failed = PublishOutcomeUnknown(f"no answer came: {text}", message_id=record.message_id)
    failed.__cause__ = error if isinstance(error, BaseException) else KafkaException(error)
    return failed


_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_NOT_STORED = frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError._INVALID_ARG,
        KafkaError._PURGE_QUEUE,
    }
)
