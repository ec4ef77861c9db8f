"""Looking at dead letters, and removing some: by taking all, holding them and giving them back; AMQP offers no more.

While letters are held nobody else sees them. Their queue counts no deliveries, so a look costs nothing. It is always
all of them: a quorum queue takes back what is returned behind what was never taken, so a look at a part would change
the order, and a second page would not follow the first.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from busframe.errors import DestinationNotFound, TransportError
from busframe.model.destination import DeadLetters
from busframe.model.entity import Stored
from busframe.spi.transport import Host
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.link import Link
from busframe_rabbitmq.mapping import decode_letter, letter_position

POLL_S = 0.01

MAX_PREFETCH = 65535
"""Of one consumer, by AMQP. "No limit" is none either: a quorum queue takes it for 2000."""

STALLED_S = 10.0
"""How long no letter may come, although some are there, until a look gives up."""

VISIBLE_AGAIN_S = 1.0
"""How long to wait until letters that were given back can be seen; somebody else may take them as soon as they can."""


class Letters:
    """Works on the dead letters of one server.

    Args:
        link: the consuming connection.
        host: names.
        check: raises where a look would cost letters; asked before each.
    """

    def __init__(self, link: Link, host: Host, check: Callable[[DeadLetters], Awaitable[None]]) -> None:
        self._link = link
        self._check = check
        self._name = host.name
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def browse(self, source: DeadLetters, after: str, limit: int) -> Sequence[Stored]:
        """See ``Transport.browse``. If the letter ``after`` is gone, it begins with the oldest."""
        oldest: list[Stored] = []
        following: list[Stored] = []
        seen = False

        def look(stored: Stored) -> bool:
            nonlocal seen
            if seen:
                if len(following) < limit:
                    following.append(stored)
            elif stored.position == after:
                seen = True
            elif len(oldest) < limit:
                oldest.append(stored)
            return False

        await self._sweep(source, look)
        return following if seen else oldest

    async def remove(self, source: DeadLetters, positions: Sequence[str]) -> int:
        """See ``Transport.remove``."""
        wanted = set(positions)
        return await self._sweep(source, lambda stored: stored.position in wanted) if wanted else 0

    async def _sweep(self, source: DeadLetters, done_with: Callable[[Stored], bool]) -> int:
        """Take all letters, remove those that are done with, give back the others. Returns how many were removed.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: the connection was lost, or the server sends no more letters although it has some; not
                transient: there are too many for one look, or looking would cost some.

        If cancelled: each is removed or not, and all others go back with the channel.
        """
        queue = self._name(source)
        async with self._one_at_a_time[queue]:
            await self._check(source)
            channel = await open_channel(await self._link.wait_up())
            try:
                return await _Sweep(channel, queue, source, self._name(source.of), done_with).run()
            except ChannelRefused as error:
                if error.is_missing:
                    raise DestinationNotFound(str(source)) from error
                raise
            finally:
                channel.abandon()


class _Sweep:
    def __init__(
        self, channel: Channel, queue: str, source: DeadLetters, of_queue: str, done_with: Callable[[Stored], bool]
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._of = (str(source.of), of_queue)
        self._done_with = done_with
        self._expected = 0
        self._taken = 0
        self._removed = 0
        self._all = asyncio.Event()

    async def run(self) -> int:
        """Do it."""
        self._expected, _ = await self._channel.declare_queue(self._queue, passive=True)
        if not self._expected:
            return 0
        if self._expected > MAX_PREFETCH:
            # Not with several consumers: what they give back at once is mixed up (tested on 4.0.5).
            raise TransportError(
                f"{self._queue} holds {self._expected} letters, and a look can hold {MAX_PREFETCH}: handle them as a "
                "source, or purge it",
                transient=False,
            )
        consumer = await self._channel.consume(self._queue, self._take, prefetch=self._expected)
        await self._wait_all()
        await self._channel.cancel(consumer)
        if self._removed < self._taken:
            # 0 is all that are unsettled: the last tag may be of one that was removed, and then is unknown (406).
            self._channel.requeue(0, multiple=True)
            await self._wait_visible()
        return self._removed

    def _take(self, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        self._taken += 1
        message, carried, _ = decode_letter(properties, body, redelivered, *self._of)
        at = message.dead.last_failed_at if message.dead is not None else message.published_at
        # Not those that arrive meanwhile: the sweep of a source that is being filled must end.
        if self._taken <= self._expected and self._done_with(Stored(letter_position(message, carried), message, at)):
            self._channel.ack(tag)
            self._removed += 1
        if self._taken >= self._expected:
            self._all.set()

    async def _wait_all(self) -> None:
        """Until all have come that were there; somebody else may have got some of them first."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + STALLED_S
        while True:
            before = self._taken
            try:
                async with asyncio.timeout(POLL_S):
                    await self._all.wait()
                return
            except TimeoutError:
                ready, _ = await self._channel.declare_queue(self._queue, passive=True)
            if self._taken > before:
                give_up = loop.time() + STALLED_S
            elif not ready:
                return
            elif loop.time() > give_up:
                raise TransportError(
                    f"{self._queue}: of {self._expected} letters the server sent {self._taken}, and no more for "
                    f"{STALLED_S:g} s; all are back in their queue, but for {self._removed} that were to be removed"
                ) from None

    async def _wait_visible(self) -> None:
        """A quorum queue takes letters back in its own time: who looks at once sees none."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + VISIBLE_AGAIN_S
        while loop.time() < give_up:
            ready, _ = await self._channel.declare_queue(self._queue, passive=True)
            if ready >= self._taken - self._removed:
                return
            await asyncio.sleep(POLL_S)
