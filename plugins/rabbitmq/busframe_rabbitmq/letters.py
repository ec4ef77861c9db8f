"""Looking at dead letters, and removing some: by taking, holding and giving back, which is all that AMQP offers.

While letters are held nobody else sees them. Their queue counts no deliveries, so a look costs nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from busframe.errors import DestinationNotFound
from busframe.model.destination import DeadLetters
from busframe.model.entity import Stored
from busframe.spi.transport import Host
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.link import Link
from busframe_rabbitmq.mapping import decode_letter, letter_position

VISIBLE_AGAIN_S = 1.0


class Letters:
    """Works on the dead letters of one server.

    Args:
        link: the consuming connection.
        host: names.
    """

    def __init__(self, link: Link, host: Host) -> None:
        self._link = link
        self._name = host.name
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def browse(self, source: DeadLetters, after: str, limit: int) -> Sequence[Stored]:
        """See ``Transport.browse``. If the letter ``after`` is gone, it begins with the oldest."""
        page: list[Stored] = []
        from_start: list[Stored] = []
        seen = not after
        async with aclosing(self._take(source)) as letters:
            async for _, stored in letters:
                if seen:
                    page.append(stored)
                elif stored.position == after:
                    seen = True
                    from_start.clear()
                elif len(from_start) < limit:
                    from_start.append(stored)
                if len(page) >= limit:
                    break
        return page if seen else from_start

    async def remove(self, source: DeadLetters, positions: Sequence[str]) -> int:
        """See ``Transport.remove``."""
        wanted = set(positions)
        removed = 0
        if not wanted:
            return 0
        async with aclosing(self._take(source)) as letters:
            async for hold, stored in letters:
                if stored.position in wanted:
                    wanted.discard(stored.position)
                    hold.remove_last()
                    removed += 1
                    if not wanted:
                        break
        return removed

    async def _take(self, source: DeadLetters) -> AsyncGenerator[tuple["_Hold", Stored], None]:
        """Take one letter after the other; when it ends, those that were not acknowledged have gone back."""
        queue = self._name(source)
        of = (str(source.of), self._name(source.of))
        async with self._one_at_a_time[queue]:
            connection = await self._link.wait_up()
            channel = await open_channel(connection)
            hold = _Hold(channel)
            try:
                ready, _ = await channel.declare_queue(queue, passive=True)
                for _ in range(ready):  # no more than were there: what arrives meanwhile would make it endless
                    got = await channel.get(queue)
                    if got is None:
                        break
                    hold.tags.append(got.tag)
                    message, carried, _ = decode_letter(got.properties, got.body, got.redelivered, *of)
                    at = message.dead.last_failed_at if message.dead is not None else message.published_at
                    yield hold, Stored(letter_position(message, carried), message, at)
                await hold.give_back(queue, ready)
            except GeneratorExit:
                await hold.give_back(queue, ready)
                raise
            except ChannelRefused as error:
                if error.code == 404:
                    raise DestinationNotFound(str(source)) from error
                raise
            finally:
                channel.abandon()


class _Hold:
    """The letters that are taken and not given back."""

    def __init__(self, channel: Channel) -> None:
        self.tags: list[int] = []
        self._channel = channel
        self._removed = 0

    def remove_last(self) -> None:
        """The letter that was taken last is done with."""
        self._channel.ack(self.tags.pop())
        self._removed += 1

    async def give_back(self, queue: str, before: int) -> None:
        """Give back what is held, and wait until it can be seen again.

        A quorum queue takes letters back in its own time: who looks at once sees none. Somebody else may take them as
        soon as they are back, so the waiting has an end.
        """
        for tag in self.tags:
            self._channel.requeue(tag)
        give_up = asyncio.get_running_loop().time() + VISIBLE_AGAIN_S
        while self.tags and asyncio.get_running_loop().time() < give_up:
            ready, _ = await self._channel.declare_queue(queue, passive=True)
            if ready >= before - self._removed:
                return
            await asyncio.sleep(0.005)
