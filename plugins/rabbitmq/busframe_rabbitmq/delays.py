"""Makes the delay cascade on the server, connects targets to it, and delivers what once found no target."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from busframe.errors import TransportError
from busframe.spi.transport import Host
from busframe_rabbitmq.cascade import Bind, Cascade, Exchange, Queue, Step, target, target_of
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.link import Backoff, Link
from busframe_rabbitmq.mapping import decode, encode
from busframe_rabbitmq.settings import Settings

log = logging.getLogger(__name__)
R = TypeVar("R")


class Delays:
    """Works over throw-away channels, because every refusal closes the channel it is asked on.

    Args:
        link: the consuming connection: a publishing one may be blocked by an alarm.
        settings: the pauses.
        host: the clock of the pauses.
        cascade: the names.
    """

    def __init__(self, link: Link, settings: Settings, host: Host, cascade: Callable[[], Cascade]) -> None:
        self._link = link
        self._settings = settings
        self._host = host
        self._cascade = cascade
        self._made_on: object = None
        self._making = asyncio.Lock()

    async def look_for_exchange(self, name: str) -> None:
        """See whether a topic's exchange exists; waits for the connection.

        Raises:
            ChannelRefused: the server says no; 404: there is none.
        """
        await self._persist(lambda channel: channel.declare_exchange(name, "headers", passive=True))

    @property
    def queues(self) -> Sequence[str]:
        """The names of the cascade's queues that hold what is delayed."""
        return self._cascade().levels

    async def is_made(self) -> bool:
        """Whether the cascade exists on the server."""
        connection = self._link.connection
        if connection is not None and self._made_on is connection:
            return True
        try:
            await self._once(lambda channel: channel.declare_exchange(self._cascade().top, "topic", passive=True))
        except ChannelRefused as error:
            if error.code != 404:
                raise
            return False
        self._made_on = connection
        return True

    async def make(self) -> None:
        """Declare the cascade, unless it is there. Safe beside other processes that do the same.

        One after the other on one channel: it takes 0.3 s on one node (tested on 4.0.5), once in the life of a prefix.

        Raises:
            TransportError: the server cannot be asked, or refuses.
        """
        async with self._making:
            if not await self.is_made():
                await self._once(self._declare_all)

    def forget(self) -> None:
        """The server said that it is gone: look again before the next delay."""
        self._made_on = None

    async def connect_target(self, name: str, *, topic: bool) -> None:
        """See that what is delayed for a queue, or for a topic, reaches it; waits for the connection.

        What came due while the target was missing is delivered now.

        Raises:
            ChannelRefused: the server says no; 404: there is no such target.
        """

        async def connect(channel: Channel) -> None:
            await self.make()
            try:
                for step in self._cascade().target_steps(name, topic=topic):
                    await _declare(channel, step)
            except ChannelRefused as error:
                if error.code != 403:
                    raise
                # Without the right to bind it is somebody else's work, and was done, we hope, with the topology; what
                # finds no target is kept.
                log.warning("may not bind to the delay queues", extra={"destination": name, "cause": error.text})

        await self._persist(connect)
        await self._deliver_undelivered(name, topic=topic)

    async def _declare_all(self, channel: Channel) -> None:
        for step in self._cascade().steps():
            await _declare(channel, step)

    async def _deliver_undelivered(self, name: str, *, topic: bool) -> None:
        """Pass on what came due for a target when it was missing; the others stay."""
        cascade = self._cascade()
        wanted = target(name, topic=topic)

        async def deliver(channel: Channel) -> None:
            ready, _ = await channel.declare_queue(cascade.undelivered, passive=True)
            if not ready:
                return
            answers: dict[int, asyncio.Future[bool]] = {}

            def answered(tag: int, multiple: bool, refused: bool) -> None:
                for each in [number for number in answers if number == tag or (multiple and number < tag)]:
                    answer = answers.pop(each)
                    if not answer.done():
                        answer.set_result(not refused)

            returned: set[str | None] = set()
            await channel.confirm(answered, lambda exchange, key, message_id: returned.add(message_id))
            sent = 0
            for _ in range(ready):
                got = await channel.get(cascade.undelivered)
                if got is None:
                    break
                if target_of(got.routing_key) != wanted:
                    continue  # it goes back when the channel is closed
                sent += 1
                answer = answers[sent] = asyncio.get_running_loop().create_future()
                message, carried, _ = decode(got.properties, got.body)
                exchange, key = (name, "") if topic else ("", name)
                channel.publish(exchange, key, encode(message, carried), got.body, mandatory=not topic)
                channel.waiting.add(answer)
                if await answer and got.properties.message_id not in returned:
                    channel.ack(got.tag)
            if sent:
                log.info("delivered what had found no target", extra={"destination": name, "count": sent})

        try:
            await self._once(deliver)
        except TransportError as error:  # it is kept, and the next connection tries again
            log.warning("cannot look for undelivered messages", extra={"destination": name, "cause": str(error)})

    async def _once(self, work: Callable[[Channel], Awaitable[R]]) -> R:
        connection = await self._link.wait_up()
        channel = await open_channel(connection)
        try:
            return await work(channel)
        finally:
            channel.abandon()

    async def _persist(self, work: Callable[[Channel], Awaitable[R]]) -> R:
        """Try until the server has answered: yes or no."""
        backoff = Backoff(self._settings.reconnect_min_s, self._settings.reconnect_max_s)
        while True:
            try:
                return await self._once(work)
            except TransportError as error:
                if isinstance(error, ChannelRefused) and not error.transient:
                    raise
                await self._host.sleep(backoff.pause(self._host.random()))


async def _declare(channel: Channel, step: Step) -> None:
    match step:
        case Exchange():
            await channel.declare_exchange(step.name, step.kind, step.arguments)
        case Queue():
            await channel.declare_queue(step.name, step.arguments)
        case Bind(of_queue=True):
            await channel.bind_queue(step.to, step.exchange, step.key, step.arguments)
        case Bind():
            await channel.bind_exchange(step.to, step.exchange, step.key)
