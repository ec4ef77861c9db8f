"""What a handler can ask to be given beside the body."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar, Unpack

from busframe.errors import ClosedError, ConfigurationError, PublishError
from busframe.handling.outcomes import Reject, RetryAfter
from busframe.handling.outlet import WINDOW_MESSAGES, Outlet
from busframe.handling.publisher import Publisher, PublishManyOptions, PublishOptions
from busframe.logic.headers import correlation_of
from busframe.model.destination import Destination, Source
from busframe.model.message import Message

T = TypeVar("T")
R = TypeVar("R")

Verb: TypeAlias = Callable[[RetryAfter | Reject | None], Awaitable[None]]
"""Settles a delivery by hand: None acknowledges."""


class Delivered:
    """One delivery, as its handler sees it.

    Attributes:
        message: as it was published.
        source: where it was received from.
        handler: the name of the handler.
        attempt: failures recorded + 1.
        redelivered: the broker has delivered it before, or it failed before.
        state: what the bus's lifespan yielded.
    """

    __slots__ = ("_out", "_verb", "attempt", "handler", "message", "redelivered", "source", "state")

    def __init__(
        self,
        message: Message,
        source: Source[Any],
        handler: str,
        attempt: int,
        redelivered: bool,
        state: Any,
        out: Outlet,
        verb: Verb | None,
    ) -> None:
        self.message = message
        self.source = source
        self.handler = handler
        self.attempt = attempt
        self.redelivered = redelivered
        self.state = state
        self._out = out
        self._verb = verb

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source} {self.message.id} attempt {self.attempt}>"

    def _manual(self) -> Verb:
        if self._verb is None:
            raise ConfigurationError(
                f'{self.handler} settles by returning or raising: register it with ack="manual" to use the verbs'
            )
        return self._verb


class Context(Delivered, Publisher):
    """For async handlers and middleware. What it publishes is confirmed before the delivery is acknowledged."""

    __slots__ = ()

    def _outlet(self) -> Outlet:
        return self._out

    def _correlation_id(self) -> str | None:
        return correlation_of(self.message)

    async def ack(self) -> None:
        """Done; returns when the broker has it. Only with ``ack="manual"``.

        Raises:
            AlreadySettled: it was settled before.
            SettlementLost: it belongs to the broker again, and will be delivered again.
        """
        await self._manual()(None)

    async def nack(self, delay_s: float = 0.0) -> None:
        """Deliver it again, not before so many seconds. An attempt, within the policy's maximum. As ``ack``."""
        await self._manual()(RetryAfter(delay_s, "nack"))

    async def reject(self, reason: str) -> None:
        """Dead-letter it as ``rejected``. As ``ack``."""
        await self._manual()(Reject(reason))


class SyncPublisher(ABC):
    """``Publisher`` for code without a loop; safe to be called from any thread but the loop's own."""

    __slots__ = ()

    @abstractmethod
    def _run(self, work: Callable[[Publisher], Coroutine[Any, Any, R]], /) -> R: ...

    def publish(self, to: Destination[T], body: T | Message, /, **options: Unpack[PublishOptions]) -> Message:
        """Publish one message; returns when the broker has confirmed it. See ``Publisher.publish``."""
        return self._run(lambda publisher: publisher.publish(to, body, **options))

    def publish_many(
        self,
        to: Destination[T],
        bodies: Iterable[T],
        /,
        *,
        keys: Callable[[T], str] | None = None,
        **options: Unpack[PublishManyOptions],
    ) -> Sequence[Message]:
        """Publish many messages, pipelined, in order. See ``Publisher.publish_many``.

        ``bodies`` is read in the calling thread, a window at a time: it may wait, and publish itself.
        """

        def publish(window: Sequence[T]) -> Sequence[Message]:
            return self._run(lambda publisher: publisher.publish_many(to, window, keys=keys, **options))

        sent: list[Message] = []
        rest = iter(bodies)
        while window := list(islice(rest, WINDOW_MESSAGES)):
            try:
                sent += publish(window)
            except PublishError as error:
                if sent:
                    error.add_note(f"{len(sent)} messages before these were confirmed")
                raise
        return sent

    @abstractmethod
    def close(self) -> None:
        """Let go of it; what was published is confirmed already. Idempotent."""


class SyncContext(Delivered, SyncPublisher):
    """For plain functions, which run in a thread."""

    __slots__ = ("_loop", "_twin")

    def __init__(self, twin: Context, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            twin.message, twin.source, twin.handler, twin.attempt, twin.redelivered, twin.state, twin._out, twin._verb
        )
        self._twin = twin
        self._loop = loop

    def _run(self, work: Callable[[Publisher], Coroutine[Any, Any, R]], /) -> R:
        coroutine = work(self._twin)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:  # the loop is closed: the thread outlived its worker
            coroutine.close()
            raise ClosedError(f"{self.handler}: the worker has ended") from error
        return future.result()

    def close(self) -> None:
        """Nothing to let go of: the worker owns the connection."""

    def ack(self) -> None:
        """See ``Context.ack``."""
        self._run(lambda _: self._twin.ack())

    def nack(self, delay_s: float = 0.0) -> None:
        """See ``Context.nack``."""
        self._run(lambda _: self._twin.nack(delay_s))

    def reject(self, reason: str) -> None:
        """See ``Context.reject``."""
        self._run(lambda _: self._twin.reject(reason))
