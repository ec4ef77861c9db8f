"""Messages between programs: the same application, with the same meaning, on any broker."""

from busframe.bus import Bus
from busframe.bus.dead_letters import DeadLetterBox, DeadLetterRecord
from busframe.codecs import Codec
from busframe.handling.context import Context, Delivered, SyncContext, SyncPublisher
from busframe.handling.handler import HandlerOptions, Middleware, Next
from busframe.handling.outcomes import Discard, PauseSource, Reject, RetryAfter
from busframe.handling.outlet import PublishMiddleware
from busframe.handling.publisher import Publisher, PublishManyOptions, PublishOptions
from busframe.handling.router import Handle, Router
from busframe.logic.retry import Failure, Retry, RetryPolicy
from busframe.model.destination import DeadLetters, Destination, Options, Queue, Source, Subscription, Topic, Where
from busframe.model.message import DeadLetterInfo, Headers, Message
from busframe.model.settlement import DeadLetter, Nack
from busframe.model.types import message_type
from busframe.runtime.worker import Health, Worker

__version__ = "0.1.0"

__all__ = [
    "Bus",
    "Codec",
    "Context",
    "DeadLetter",
    "DeadLetterBox",
    "DeadLetterInfo",
    "DeadLetterRecord",
    "DeadLetters",
    "Delivered",
    "Destination",
    "Discard",
    "Failure",
    "Handle",
    "HandlerOptions",
    "Headers",
    "Health",
    "Message",
    "Middleware",
    "Nack",
    "Next",
    "Options",
    "PauseSource",
    "PublishManyOptions",
    "PublishMiddleware",
    "PublishOptions",
    "Publisher",
    "Queue",
    "Reject",
    "Retry",
    "RetryAfter",
    "RetryPolicy",
    "Router",
    "Source",
    "Subscription",
    "SyncContext",
    "SyncPublisher",
    "Topic",
    "Where",
    "Worker",
    "message_type",
]
