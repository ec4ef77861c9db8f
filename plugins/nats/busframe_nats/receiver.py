"""A consumer of one source that pulls on through each loss of its connection."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from busframe.errors import (
    AccessDenied,
    BusframeError,
    ClosedError,
    DestinationNotFound,
    SettlementLost,
    TransportError,
)
from busframe.logic.dead_letter import read_dead_letter
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters
from busframe.model.entity import Entity
from busframe.model.settlement import DeadLetter, Settlement
from busframe.spi.copy import copy_then_ack
from busframe.spi.transport import Receiver
from busframe_nats.client import Connection, Lost
from busframe_nats.fetch import Fetch
from busframe_nats.held import ACK, NAK, Held, Receipt, command
from busframe_nats.mapping import decode, read_reply
from busframe_nats.pull import BAD_REQUEST, Pull
from busframe_nats.source import ConfiguredSource

if TYPE_CHECKING:
    from busframe.model.destination import Where
    from busframe_nats.transport import Nats

log = logging.getLogger(__name__)

TICK_S = 1.0
CLOSE_TIMEOUT_S = 2.0
RETRY_S = 0.5


class NatsReceiver(Receiver):
    """Consumes with explicit acknowledgement.

    With order there is a consumer for each partition, which has one message out at a time; which of a fleet's workers
    gets it does not matter then.
    """

    def __init__(self, transport: "Nats", entity: Entity, prefetch: int) -> None:
        self._transport = transport
        self._host = transport.host
        self._entity = entity
        self._address = str(entity.address)
        self._letters = isinstance(entity.address, DeadLetters)
        self._ordered = entity.ordering == "key"
        self._prefetch = prefetch
        self._link = transport.link
        self._fetch: Fetch | None = None
        self._buffer: deque[Delivery] = deque()
        self._proving: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._checker: asyncio.Task[None] | None = None
        self._failed: BusframeError | None = None
        self._stopped = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._held = Held(time.monotonic)
        self._source = ConfiguredSource(transport.jetstream, transport.names, entity, time.monotonic)

    def __repr__(self) -> str:
        return f"<NatsReceiver {self._address}: {len(self._held)} held, {len(self._buffer)} buffered, {self._fetch!r}>"

    @property
    def where(self) -> "Where | None":  # type: ignore[override]  # live, so that a change shows at once
        """The stored filter."""
        return self._source.where

    # ------------------------------------------------------------------------------------------ Receiver

    async def open(self) -> None:
        """See ``Receiver.open``."""
        await self._source.read()
        self._held.ack_wait_s = self._source.ack_wait_s
        at = f"{self._transport.jetstream.prefix}.CONSUMER.MSG.NEXT.{self._source.stream}"
        self._fetch = Fetch(
            [Pull(f"{at}.{name}", self._take, self._trouble, time.monotonic) for name in self._source.consumers],
            lambda: len(self._held),
            self._prefetch,
            self._transport.settings.fetch_window_bytes,
            self._transport.max_payload,
            by_partition=self._ordered,
        )
        self._transport.answers.denied.append(self._denied)
        self._link.on_up.append(self._up)
        self._link.on_down.append(self._down)
        connection = await self._link.wait_up()
        self._up(connection)
        with suppress(Lost):  # then it goes on with the next one
            await connection.ping()
        if self._failed is not None:
            raise self._failed
        self._keeper = asyncio.create_task(self._keep(), name=f"busframe nats keeps {self._address}")

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``."""
        while True:
            if self._stopped:
                raise ClosedError(f"{self._address} is not received any more")
            if self._buffer:
                if await self._source.refresh_for(islice(self._buffer, limit)):
                    continue
                return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
            if self._failed is not None:
                raise self._failed
            self._arrived.clear()
            await self._arrived.wait()

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``."""
        return self._held.owns(cast("Receipt", delivery.receipt))

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``. A late acknowledgement counts; whatever else is late is lost."""
        outcomes: list[Exception | None] = [None] * len(settled)
        copies = [index for index, (_, settlement) in enumerate(settled) if isinstance(settlement, DeadLetter)]
        if len(copies) < len(settled):
            connection = await self._link.wait_up()
            if self._closed:
                raise ClosedError(f"the receiver of {self._address} is closed")
            commands: list[bytes] = []
            settle = self._held.settle
            for index, (delivery, settlement) in enumerate(settled):
                if not isinstance(settlement, DeadLetter):
                    outcomes[index] = settle(delivery.receipt, settlement, commands)  # type: ignore[arg-type]
            if commands:
                connection.write(*commands)  # nothing was awaited since: it is the open one
                self._prove(connection)
            self._refill()
        if copies:
            found = await asyncio.gather(*(self._dead_letter(*settled[index]) for index in copies))
            for index, outcome in zip(copies, found, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def stop(self) -> None:
        """See ``Receiver.stop``."""
        if self._stopped:
            return
        self._stopped = True
        self._arrived.set()
        if self._fetch is not None:
            self._fetch.stop()  # before anything goes back, or it would come again at once
        self._tell(self._held.give_back(cast("Receipt", delivery.receipt) for delivery in self._buffer))
        self._buffer.clear()

    async def close(self) -> None:
        """See ``Receiver.close``."""
        if self._closed:
            return
        await self.stop()
        self._closed = True
        tasks = [task for task in (self._keeper, self._checker, self._proving) if task is not None]
        for task in tasks:
            task.cancel()
        connection = self._link.connection
        self._tell(self._acks_again() + self._held.give_back())
        if connection is not None:
            with suppress(TimeoutError, Lost):  # what is on its way here goes back before we are gone
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await connection.ping()
                    await connection.ping()
        for told, mine in (
            (self._link.on_up, self._up),
            (self._link.on_down, self._down),
            (self._transport.answers.denied, self._denied),
        ):
            with suppress(ValueError):
                cast("list[Any]", told).remove(mine)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._transport.forget(self)

    async def resize(self, prefetch: int) -> None:
        """See ``Receiver.resize``."""
        self._prefetch = prefetch
        if self._fetch is not None:
            self._fetch.resize(prefetch)

    # ------------------------------------------------------------------------------------------ settling

    async def _dead_letter(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        if not self.holds(delivery):
            return SettlementLost(f"{self._address}: it was not renewed in time; it is delivered again")
        # Acknowledged and not ended by ``term``: the server drops a late one, and the letter would be one too many.
        to = self._entity.address.dead_letters  # type: ignore[union-attr]
        return await copy_then_ack(self._transport, self, delivery, cast("DeadLetter", settlement), to=to)

    def _tell(self, commands: Sequence[bytes]) -> None:
        connection = self._link.connection
        if connection is not None and commands:
            connection.write(*commands)

    def _prove(self, connection: Connection) -> None:
        if self._held.unproven and (self._proving is None or self._proving.done()):
            self._proving = asyncio.create_task(self._forget_read(connection), name="busframe nats proves")

    async def _forget_read(self, connection: Connection) -> None:
        """Acknowledgements have no answer. What the server has surely read must not be said again after a loss."""
        try:
            while self._held.unproven:
                count = len(self._held.unproven)
                await connection.ping()
                del self._held.unproven[:count]
        except Lost:
            pass

    def _acks_again(self) -> list[bytes]:
        return [command(reply, ACK) for reply in self._held.unproven]

    # ------------------------------------------------------------------------------------------ arriving

    def _take(self, pull: Pull, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if self._stopped:
            self._tell([command(reply, NAK)])
            return
        deliveries, seq, position = read_reply(reply)
        message, carried = decode(headers, data, self._source.stream, seq)
        receipt = self._held.add(reply, seq)  # what could not be decoded would be renewed for ever
        if self._letters:
            message = replace(message, dead=read_dead_letter(carried))
        if deliveries > 1:
            carried = self._held.recorded(seq) or carried
        self._buffer.append(Delivery(message, receipt, position, deliveries, self._held.generation, carried))
        self._arrived.set()
        if self._ordered or pull.owed == 0:
            self._refill()

    def _refill(self) -> None:
        if self._fetch is not None and self._failed is None:
            self._fetch.refill()

    # ------------------------------------------------------------------------------------------ supervision

    def _up(self, connection: Connection) -> None:
        if self._failed is not None or self._closed:
            return
        self._renew()
        self._tell(self._acks_again())
        self._prove(connection)
        if self._fetch is not None and not self._stopped:
            self._fetch.begin(connection)
            if self._keeper is not None:
                self._host.report(self._address, "up", None)

    def _down(self, error: TransportError) -> None:
        if self._fetch is not None:
            self._fetch.lost()
        if not self._stopped:
            self._host.report(self._address, "down", error)

    def _renew(self) -> None:
        progress = self._held.renew()
        if progress is None:
            self._buffer.clear()
        else:
            self._tell(progress)

    async def _keep(self) -> None:
        while True:
            await self._transport.host.sleep(min(TICK_S, self._held.ack_wait_s / 4))
            try:
                if self._link.connection is None:
                    continue
                if self._held.is_due:
                    self._renew()
                if self._stopped or self._fetch is None:
                    continue
                self._fetch.watch()
                if self._source.is_old:
                    await self._source.refresh()
                    self._held.ack_wait_s = self._source.ack_wait_s
            except DestinationNotFound as error:
                self._fail(error)
            except (TransportError, ClosedError) as error:
                log.debug("keeping failed", extra={"source": self._address, "cause": str(error)})
            except Exception:  # no consumer may end silently
                log.exception("keeping failed", extra={"source": self._address})

    def _trouble(self, pull: Pull, code: int, text: str) -> None:
        if self._stopped or self._closed:
            return
        if code == 0:
            self._refill()
            return
        if code == BAD_REQUEST:
            self._fail(TransportError(f"{self._address} cannot be pulled: {text}", transient=False))
        elif self._checker is None:
            self._checker = asyncio.create_task(self._check(), name=f"busframe nats looks after {self._address}")

    async def _check(self) -> None:
        """Requests ended: is the consumer there? If so, ask again."""
        try:
            while True:
                try:
                    await self._source.look()
                    break
                except (AccessDenied, DestinationNotFound) as error:
                    self._fail(error)
                    return
                except TransportError as error:
                    log.debug("looking failed", extra={"source": self._address, "cause": str(error)})
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(RETRY_S * self._host.random())
        except ClosedError:
            return
        finally:
            self._checker = None
        self._refill()

    def _denied(self, subject: str, text: str) -> None:
        pulls = self._fetch.pulls if self._fetch is not None else ()
        if any(pull.subject.lower() == subject for pull in pulls):
            self._fail(AccessDenied(f"{self._address} may not be consumed: {text}"))

    def _fail(self, error: BusframeError) -> None:
        self._failed = error
        self._arrived.set()
