"""How messages are sent: what ``Bus`` and ``Context`` have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict, TypeVar

from busframe.handling.outlet import Outlet
from busframe.model.destination import Destination
from busframe.model.message import Headers, Message

T = TypeVar("T")

PUBLISH_TIMEOUT_S = 30.0


class PublishManyOptions(TypedDict, total=False):
    """What may be said of many messages at once: the keywords of ``Publisher.publish_many``."""

    key: str | None
    headers: Headers | None
    delay_s: float
    ttl_s: float | None
    correlation_id: str | None
    reply_to: str | None
    timeout_s: float


class PublishOptions(PublishManyOptions, total=False):
    """What may be said of one message: the keywords of ``Publisher.publish``, for functions that pass them on."""

    id: str | None


class Publisher(ABC):
    """Publishes messages: what an application's services ask for. ``Bus`` and ``Context`` are publishers."""

    __slots__ = ()

    @abstractmethod
    def _outlet(self) -> Outlet: ...

    def _correlation_id(self) -> str | None:
        return None

    async def publish(
        self,
        to: Destination[T],
        body: T | Message,
        /,
        *,
        key: str | None = None,
        headers: Headers | None = None,
        delay_s: float = 0.0,
        ttl_s: float | None = None,
        id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> Message:
        """Publish one message; returns when the broker has confirmed it.

        Args:
            to: a queue or a topic.
            body: a payload of one of its types; a ``Message`` is sent with its body, type, content type, headers and
                key as they are.
            key: messages of one key keep their order where the consumer asks ``ordering="key"``.
            headers: text; names of ASCII letters, digits and ``-_.``.
            delay_s: not to be delivered before so many seconds.
            ttl_s: not to be handled later than so many seconds after that.
            id: names the message; new when left out. Give the id of a publish whose outcome is unknown to repeat it.
            correlation_id: what it belongs to; a handler's publishes inherit the correlation id of its message.
            reply_to: where an answer is expected.
            timeout_s: how long to wait for the broker, through an outage too.

        Returns:
            The message that was confirmed.

        Raises:
            PublishError: with ``message_id``; ``PublishOutcomeUnknown``: it may or may not be there.
            Unsupported: the transport cannot delay so long.
            ClosedError: the bus is not open.

        If cancelled: the message may or may not be published.
        """
        outlet = self._outlet()
        outgoing = outlet.prepare(
            to, body, key, headers, delay_s, ttl_s, id, correlation_id or self._correlation_id(), reply_to
        )
        return await outlet.send_one(outgoing, timeout_s)

    async def publish_many(
        self,
        to: Destination[T],
        bodies: Iterable[T],
        /,
        *,
        keys: Callable[[T], str] | None = None,
        key: str | None = None,
        headers: Headers | None = None,
        delay_s: float = 0.0,
        ttl_s: float | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> Sequence[Message]:
        """Publish many messages, pipelined, in order; returns when the broker has confirmed all of them.

        Of the bodies no more than a window is prepared ahead; what was confirmed is kept, because it is returned. So
        publish an endless input in pieces.

        Args:
            to: a queue or a topic.
            bodies: payloads of its types; may be a generator.
            keys: makes the key of each.
            key: of all of them, where ``keys`` is left out.
            headers: of all of them.
            delay_s: as in ``publish``.
            ttl_s: as in ``publish``.
            correlation_id: as in ``publish``.
            reply_to: as in ``publish``.
            timeout_s: how long to wait for the broker, for each window of messages.

        Returns:
            The messages that were confirmed.

        Raises:
            PublishError: of the first that failed; its note says how many others did. Nothing after its window is
                sent; others of its window may have been confirmed.
            Unsupported: the transport cannot delay so long.
            ClosedError: the bus is not open.

        If cancelled: those of the last window may or may not be published.
        """
        outlet = self._outlet()
        correlation = correlation_id or self._correlation_id()
        prepared = (
            outlet.prepare(to, body, keys(body) if keys else key, headers, delay_s, ttl_s, None, correlation, reply_to)
            for body in bodies
        )
        return await outlet.send_many(prepared, timeout_s)
