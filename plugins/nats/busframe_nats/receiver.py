"""A consumer of one source that pulls on through each loss of its connection.

On JetStream what is held belongs to nobody's connection: the server waits for an acknowledgement for ``ack_wait``, and
begins anew at each sign of progress. So a receiver renews what it holds, also what is only buffered and also after a
reconnect, and loses a message only when it was silent for too long.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from busframe.errors import (
    AccessDenied,
    BusframeError,
    ClosedError,
    DestinationNotFound,
    SettlementLost,
    TopologyMismatch,
    TransportError,
)
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.filters import matches
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters, Subscription
from busframe.model.entity import Entity
from busframe.model.settlement import Ack, DeadLetter, Nack, Settlement
from busframe.spi.copy import copy_then_ack
from busframe.spi.transport import Receiver
from busframe_nats.answers import Refused
from busframe_nats.client import Connection, Lost
from busframe_nats.mapping import decode, read_reply
from busframe_nats.pull import BAD_REQUEST, Pull
from busframe_nats.topology import SECOND, partitions_of, read_where

if TYPE_CHECKING:
    from busframe.model.message import Headers
    from busframe_nats.transport import Nats

log = logging.getLogger(__name__)

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
TICK_S = 1.0
WHERE_REFRESH_S = 30.0
CLOSE_TIMEOUT_S = 2.0
SATURATED_S = 0.05
RETRY_S = 0.5
RECORDED = 10_000


class Receipt:
    """One message that is held.

    Attributes:
        reply: where its acknowledgement goes.
        seq: its place in the stream.
        at: when it came, on the loop's clock.
        settled: the server was told what became of it.
    """

    __slots__ = ("at", "reply", "seq", "settled")

    def __init__(self, reply: bytes, seq: int, at: float) -> None:
        self.reply = reply
        self.seq = seq
        self.at = at
        self.settled = False


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
        self._ordered = entity.ordering == "key"
        self._prefetch = prefetch
        self._link = transport.link
        self._stream = transport.names.stream(entity.address)
        self._consumers: list[str] = []
        self._pulls: list[Pull] = []
        self._ack_wait_s = 30.0
        self._where_at = 0.0
        self._generation = 0
        self._held: dict[int, Receipt] = {}
        self._recorded: dict[int, Headers] = {}
        """What the core knows of failures. The server cannot store it, so it is known here alone."""
        self._buffer: deque[Delivery] = deque()
        self._unproven: list[bytes] = []
        self._proving: asyncio.Task[None] | None = None
        self._renewed_at = 0.0
        self._arrived = asyncio.Event()
        self._saturated: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._checker: asyncio.Task[None] | None = None
        self._failed: BusframeError | None = None
        self._stopped = False
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<NatsReceiver {self._address}: {len(self._held)} held, {len(self._buffer)} buffered, {self._pulls}>"

    # ------------------------------------------------------------------------------------------ Receiver

    async def open(self) -> None:
        """See ``Receiver.open``."""
        await self._look()
        prefix = self._transport.jetstream.prefix
        now = self._loop.time
        self._pulls = [
            Pull(f"{prefix}.CONSUMER.MSG.NEXT.{self._stream}.{name}", self._take, self._trouble, now)
            for name in self._consumers
        ]
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
                if self.where and await self._read_where_again(limit):
                    continue
                return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
            if self._failed is not None:
                raise self._failed
            self._arrived.clear()
            await self._arrived.wait()

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``."""
        receipt = cast("Receipt", delivery.receipt)
        return self._held.get(receipt.seq) is receipt and not self._is_late(receipt)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``. A late acknowledgement counts; whatever else is late is lost."""
        outcomes: list[Exception | None] = [None] * len(settled)
        copies: list[int] = []
        quick: list[int] = []
        for index, (_, settlement) in enumerate(settled):
            if isinstance(settlement, DeadLetter):
                copies.append(index)
            else:
                quick.append(index)
        if quick:
            connection = await self._link.wait_up()
            if self._closed:
                raise ClosedError(f"the receiver of {self._address} is closed")
            commands: list[bytes] = []
            for index in quick:
                outcomes[index] = self._settle_one(*settled[index], commands)
            if commands:
                connection.write(*commands)  # nothing was awaited since: it is the open one
                if self._unproven and self._proving is None:
                    self._proving = asyncio.create_task(self._prove(connection), name="busframe nats proves")
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
        for pull in self._pulls:
            pull.withdraw()  # before anything goes back, or it would come again at once
        self._give_back([cast("Receipt", delivery.receipt) for delivery in self._buffer])
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
        if self._saturated is not None:
            self._saturated.cancel()
        connection = self._link.connection
        if connection is not None:
            self._write_acks(connection, self._unproven)
        self._give_back(list(self._held.values()))
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
        narrower = prefetch < self._prefetch
        self._prefetch = prefetch
        connection = self._link.connection
        if narrower and connection is not None and len(self._held) + self._owed > prefetch and not self._stopped:
            for pull in self._pulls:
                pull.withdraw()
        self._refill()

    # ------------------------------------------------------------------------------------------ settling

    def _settle_one(self, delivery: Delivery, settlement: Settlement, commands: list[bytes]) -> Exception | None:
        receipt = cast("Receipt", delivery.receipt)
        if receipt.settled:
            return SettlementLost(f"{self._address}: it is settled already")
        late = not self.holds(delivery)
        if self._held.get(receipt.seq) is receipt:
            del self._held[receipt.seq]
        receipt.settled = True
        if isinstance(settlement, Ack):
            commands.append(_command(receipt.reply, ACK))
            self._unproven.append(receipt.reply)
            self._recorded.pop(receipt.seq, None)
            return None
        if late:
            return SettlementLost(f"{self._address}: it was not renewed in time; it is delivered again")
        delay_s = settlement.delay_s if isinstance(settlement, Nack) else 0.0
        commands.append(_command(receipt.reply, _nak(delay_s)))
        if isinstance(settlement, Nack) and settlement.carried:
            self._recorded[receipt.seq] = settlement.carried
            if len(self._recorded) > RECORDED:
                del self._recorded[next(iter(self._recorded))]
        return None

    async def _dead_letter(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        if not self.holds(delivery):
            return SettlementLost(f"{self._address}: it was not renewed in time; it is delivered again")
        # Acknowledged and not ended by ``term``: the server drops a late one, and the letter would be one too many.
        to = self._entity.address.dead_letters  # type: ignore[union-attr]
        return await copy_then_ack(self._transport, self, delivery, cast("DeadLetter", settlement), to=to)

    def _give_back(self, receipts: Sequence[Receipt]) -> None:
        connection = self._link.connection
        commands: list[bytes] = []
        for receipt in receipts:
            if self._held.get(receipt.seq) is receipt:
                del self._held[receipt.seq]
                receipt.settled = True
                commands.append(_command(receipt.reply, NAK))
        if connection is not None and commands:
            connection.write(*commands)

    async def _prove(self, connection: Connection) -> None:
        """Acknowledgements have no answer. What the server has surely read need not be said again after a loss."""
        try:
            while self._unproven:
                count = len(self._unproven)
                await connection.ping()
                del self._unproven[:count]
        except Lost:
            pass
        finally:
            self._proving = None

    def _write_acks(self, connection: Connection, replies: Sequence[bytes]) -> None:
        if replies:
            connection.write(*(_command(reply, ACK) for reply in replies))

    # ------------------------------------------------------------------------------------------ arriving

    @property
    def _owed(self) -> int:
        return sum(pull.owed for pull in self._pulls)

    def _take(self, pull: Pull, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if self._stopped:
            with suppress(Lost):
                cast("Connection", self._link.connection).write(_command(reply, NAK))
            return
        deliveries, seq, _ = read_reply(reply.decode())
        receipt = Receipt(reply, seq, self._loop.time())
        self._held[seq] = receipt
        message, carried = decode(headers, data, f"{self._stream}/{seq}")
        if isinstance(self._entity.address, DeadLetters):
            message = replace(message, dead=read_dead_letter(carried))
        if deliveries > 1 and seq in self._recorded:
            carried = self._recorded[seq]
        self._buffer.append(Delivery(message, receipt, str(seq), deliveries, self._generation, carried))
        self._arrived.set()
        if self._ordered or pull.owed == 0:
            self._refill()

    def _refill(self) -> None:
        """Ask for as many as there is room for."""
        if self._stopped or self._failed is not None:
            return
        connection = self._link.connection
        if connection is None:
            return
        room = self._prefetch - len(self._held)
        if self._ordered:
            self._refill_partitions(connection, room)
            return
        (pull,) = self._pulls
        room -= pull.owed
        if room > 0 and (not pull.owed or room >= self._prefetch // 4):
            if not pull.is_asking:
                pull.begin(connection)
            pull.request(room, self._most_bytes(room))

    def _refill_partitions(self, connection: Connection, room: int) -> None:
        if room > 0:
            if self._saturated is not None:
                self._saturated.cancel()
                self._saturated = None
            most_bytes = self._most_bytes(1)
            for pull in self._pulls:
                if not pull.owed:
                    if not pull.is_asking:
                        pull.begin(connection)
                    pull.request(1, most_bytes)
        elif self._saturated is None and self._owed:
            # Others may have a free slot for what would only wait here.
            self._saturated = self._loop.call_later(SATURATED_S, self._withdraw_saturated)

    def _withdraw_saturated(self) -> None:
        self._saturated = None
        if len(self._held) >= self._prefetch:
            for pull in self._pulls:
                pull.withdraw()

    def _most_bytes(self, count: int) -> int:
        # One message always fits, or the server would answer that it does not, for ever.
        least = self._transport.max_payload + 8192
        return max(least, self._transport.settings.fetch_window_bytes * count // max(1, self._prefetch))

    # ------------------------------------------------------------------------------------------ supervision

    def _up(self, connection: Connection) -> None:
        if self._failed is not None or self._closed:
            return
        self._renew(connection)
        self._write_acks(connection, self._unproven)
        if not self._stopped:
            for pull in self._pulls:
                pull.begin(connection)
            self._refill()
            if self._keeper is not None:
                self._host.report(self._address, "up", None)

    def _down(self, error: TransportError) -> None:
        for pull in self._pulls:
            pull.lost()
        if not self._stopped:
            self._host.report(self._address, "down", error)

    def _is_late(self, receipt: Receipt) -> bool:
        """Whether the server has heard nothing of it for so long that it may have delivered it to somebody else."""
        return self._loop.time() > max(receipt.at, self._renewed_at) + self._ack_wait_s

    def _renew(self, connection: Connection) -> None:
        if any(map(self._is_late, self._held.values())):
            # Those that are not late are let go as well: the core forgets all of a generation that have not started.
            self._held.clear()
            self._buffer.clear()
            self._generation += 1
        if self._held:
            connection.write(*(_command(receipt.reply, PROGRESS) for receipt in self._held.values()))
        self._renewed_at = self._loop.time()

    async def _keep(self) -> None:
        tick_s = min(TICK_S, self._ack_wait_s / 4)
        while True:
            await self._transport.host.sleep(tick_s)
            try:
                connection = self._link.connection
                if connection is None:
                    continue
                now = self._loop.time()
                if now - self._renewed_at >= self._ack_wait_s / 3:
                    self._renew(connection)
                for pull in self._pulls:
                    if pull.is_silent and not self._stopped:
                        log.warning("%s: requests for messages are not answered any more", self._address)
                        pull.begin(connection)
                if not self._stopped:
                    self._refill()
                    if self.where is not None and now - self._where_at > WHERE_REFRESH_S:
                        await self._read_where()
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
                    for name in self._consumers:
                        if await self._transport.jetstream.consumer(self._stream, name) is None:
                            self._fail(DestinationNotFound(self._address))
                            return
                    break
                except AccessDenied as error:
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
        if any(pull.subject.lower() == subject for pull in self._pulls):
            self._fail(AccessDenied(f"{self._address} may not be consumed: {text}"))

    def _fail(self, error: BusframeError) -> None:
        self._failed = error
        self._arrived.set()

    # ------------------------------------------------------------------------------------------ what is there

    async def _look(self) -> None:
        """Read how the source is configured."""
        names, address = self._transport.names, self._entity.address
        assert not isinstance(address, str)
        partitions = 0
        try:
            if self._ordered:
                stream = await self._transport.jetstream.stream(self._stream)
                if stream is None:
                    raise DestinationNotFound(self._address)
                partitions = partitions_of(stream["config"])
            self._consumers = names.consumers(address, partitions)
            info = await self._transport.jetstream.consumer(self._stream, self._consumers[0])
        except Refused as error:
            raise TransportError(f"{self._address}: {error}", transient=error.transient) from error
        if info is None:
            other = names.consumers(address, 0 if partitions else 1)[0]
            if await self._transport.jetstream.consumer(self._stream, other) is not None:
                raise TopologyMismatch(f"{self._address} exists with{'out' if partitions else ''} order of keys")
            raise DestinationNotFound(self._address)
        self._ack_wait_s = int(info["config"].get("ack_wait") or 30 * SECOND) / SECOND
        if isinstance(address, Subscription):
            self.where = read_where(info["config"])
        self._where_at = self._loop.time()

    async def _read_where(self) -> None:
        at = self._loop.time()
        info = await self._transport.jetstream.consumer(self._stream, self._consumers[0])
        if info is not None:
            self.where = read_where(info["config"])
            self._where_at = at

    async def _read_where_again(self, limit: int) -> bool:
        """Before a message is dropped that the filter does not take, see whether it is still the stored one.

        It may have been widened before the message was published.

        Returns:
            Whether something was awaited, so that all may be different.
        """
        where = self.where or {}
        strangers = (
            delivery
            for _, delivery in zip(range(limit), self._buffer, strict=False)
            if not matches(where, delivery.message.headers)
        )
        if all(cast("Receipt", delivery.receipt).at < self._where_at for delivery in strangers):
            return False
        try:
            await self._read_where()
        except TransportError:
            await asyncio.sleep(RETRY_S)
        return True


def _command(reply: bytes, what: bytes) -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (reply, len(what), what)


def _nak(delay_s: float) -> bytes:
    return NAK if delay_s <= 0 else b'-NAK {"delay": %d}' % int(delay_s * SECOND)
