"""Makes the delay cascade on the server, and connects targets to it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from busframe.errors import TransportError
from busframe.spi.transport import Host
from busframe_rabbitmq.cascade import Bind, Cascade, Exchange, Queue, Step
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.link import Backoff, Link
from busframe_rabbitmq.settings import Settings
from busframe_rabbitmq.topology import EXCHANGE_TYPE

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

    def __init__(self, link: Link, settings: Settings, host: Host, cascade: Cascade) -> None:
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
        await self._persist(lambda channel: channel.declare_exchange(name, EXCHANGE_TYPE, passive=True))

    def queues(self, targets: Iterable[str]) -> Sequence[str]:
        """The names of the queues that hold what is delayed for some targets."""
        return [*self._cascade.levels, *map(self._cascade.door, targets)]

    async def is_made(self) -> bool:
        """Whether the cascade exists on the server."""
        connection = self._link.connection
        if connection is not None and self._made_on is connection:
            return True
        try:
            await self._once(lambda channel: channel.declare_exchange(self._cascade.top, "topic", passive=True))
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

        Raises:
            ChannelRefused: the server says no; 404: there is no such target.
        """

        async def connect(channel: Channel) -> None:
            if topic:
                await channel.declare_exchange(name, EXCHANGE_TYPE, passive=True)
            else:
                await channel.declare_queue(name, passive=True)
            await self.make()
            try:
                for step in self._cascade.target_steps(name, topic=topic):
                    await _declare(channel, step)
            except ChannelRefused as error:
                if error.code != 403:
                    raise
                # Without the right to bind it is somebody else's work, and was done, we hope, with the topology; what
                # finds no target is kept.
                log.info("may not bind to the delay queues", extra={"destination": name, "cause": error.text})

        await self._persist(connect)

    async def _declare_all(self, channel: Channel) -> None:
        for step in self._cascade.steps():
            await _declare(channel, step)

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
