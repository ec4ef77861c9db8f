"""One member of one group: the thread that owns its client, and what the loop may ask of it.

The client is touched by its own thread alone: each of its methods waits for the poll that runs, and would hold the loop
up as long. The thread fetches batches and lets the loop take records from a buffer; the loop says which records are
finished. Offsets are stored as their records are finished without a gap, and the client commits what is stored each
second, when a partition is revoked, and at the end; it commits nothing by itself that was only fetched.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from busframe.errors import BusframeError, ClosedError, TransportError
from busframe_kafka.assignment import Record
from busframe_kafka.client import (
    DENIED,
    UNKNOWN_TOPIC,
    Config,
    Consumer,
    KafkaError,
    translate,
)
from busframe_kafka.holding import BEGINNING, POLL_S, Holding
from busframe_kafka.listener import Listener

log = logging.getLogger(__name__)

BATCH = 500
BLOCKED_S = 1.5
"""After so long without room in the buffer the partitions are paused: that throws away what the client has fetched."""

T = TypeVar("T")


class Member:
    """Consumes topics as a member of a group.

    Args:
        config: makes the client's configuration of the two callbacks that it has.
        topics: that are consumed, all by one client.
        listener: told what happens.
        gap: a partition of a topic with so many fetched records above its oldest unfinished one is fetched no further.
        revoke_timeout_s: how long to wait, when a partition goes to another member, for what is in flight of it.
        on_client_error: told, on the thread, what the client says of its connections.
        begin: the offset at which a partition of this number begins where nothing is committed; what is missing from
            there on is told. ``BEGINNING``: wherever its log does.
    """

    def __init__(
        self,
        config: Callable[[Callable[[KafkaError], None]], Config],
        topics: Sequence[str],
        listener: Listener,
        *,
        gap: Callable[[str], int],
        revoke_timeout_s: float,
        on_client_error: Callable[[KafkaError], None],
        begin: Callable[[int], int] = lambda _: BEGINNING,
    ) -> None:
        self._config = config
        self._on_client_error = on_client_error
        self._topics = list(topics)
        self.topic = self._topics[0]
        self._listener = listener
        self._gap = gap
        self._held = Holding(
            gap=gap,
            begin=begin,
            revoke_timeout_s=revoke_timeout_s,
            changed=lambda partitions, joined: self._tell(self._changed, partitions, joined),
            lost=lambda: self._tell(listener.lost),
            dropped=lambda *what: self._tell(listener.dropped, *what),
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._joined: asyncio.Future[None] = self._loop.create_future()
        self._share = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"busframe kafka {self._topics[0]}", daemon=True)
        self._stopped = False
        self._commands: deque[Callable[[Any], None]] = deque()
        # What both sides use, under the lock.
        self._buffer: deque[Record] = deque()
        self._wanted = False
        # The thread's own.
        self._blocked_at: float | None = None

    def __repr__(self) -> str:
        return f"<Member {self._topics}: {len(self._held.partitions)} partitions, {len(self._buffer)} buffered>"

    @property
    def committed(self) -> dict[tuple[str, int], int]:
        """What is committed of the partitions that it has, as far as it was told: a copy."""
        return dict(self._held.committed)

    # ------------------------------------------------------------------------------------------------ of the loop

    async def start(self, share_s: float = 0.0) -> None:
        """Join the group. Returns with its first assignment.

        Args:
            share_s: that one is empty while others still have to give partitions up: wait so long for the next.

        Raises:
            TransportError: the client cannot be made, or may not consume.

        If cancelled: call ``close``.
        """
        self._thread.start()
        await asyncio.shield(self._joined)
        with suppress(TimeoutError):
            async with asyncio.timeout(share_s):
                await self._share.wait()

    def take(self, limit: int) -> list[Record]:
        """Records to handle, at most so many; none: ``Listener.arrived`` tells when there are."""
        taken: list[Record] = []
        with self._held.lock:
            buffer = self._buffer
            while buffer and len(taken) < limit:
                record = buffer.popleft()
                if self._start(record):
                    taken.append(record)
            self._wanted = not taken
        if len(self._buffer) < BATCH // 2 and not self._held.wake.is_set():
            self._held.wake.set()
        return taken

    def again(self, record: Record) -> bool:
        """Handle a record that was put aside. False: it does not belong here any more."""
        with self._held.lock:
            return self._start(record)

    def _start(self, record: Record) -> bool:
        partition = record.partition
        if partition.leaving or self._stopped:
            return False
        partition.in_flight += 1
        partition.reached = max(partition.reached, record.offset)
        return True

    def put_aside(self, record: Record) -> None:
        """A record that was taken is handled later: nobody waits for it when its partition is revoked."""
        with self._held.lock:
            record.partition.in_flight -= 1
        self._held.wake.set()

    def finish(self, records: Iterable[Record]) -> None:
        """Records that were taken are done with."""
        for record in records:
            self._held.finished.append(record)  # before it counts as no more in flight
            record.partition.in_flight -= 1
            if record.deliveries > 1 or record.partition.leaving:
                self._held.wake.set()

    async def _call(self, function: Callable[[Any], T]) -> T:
        """Run something on the thread, with the client.

        Raises:
            ClosedError: the thread has ended.
            Exception: what the function raised.
        """
        done: asyncio.Future[T] = self._loop.create_future()

        def run(client: Any) -> None:
            try:
                result = function(client)
            except Exception as error:
                self._tell(_fail, done, error)
            else:
                self._tell(_resolve, done, result)

        if self._ended.done() or not self._thread.is_alive():
            raise ClosedError("the consumer has ended")
        self._commands.append(run)
        self._held.wake.set()
        ended = asyncio.ensure_future(asyncio.shield(self._ended))
        try:
            await asyncio.wait((done, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not done.done():
            raise ClosedError("the consumer has ended")
        return done.result()

    def stop(self) -> None:
        """Hand nothing out any more. What was taken can still be finished."""
        with self._held.lock:
            self._stopped = True
            self._buffer.clear()
        self._held.wake.set()

    async def close(self, timeout_s: float, *, commit: bool = True) -> bool:
        """Leave the group and end the thread. Returns whether it has ended in time; else it ends by itself.

        Args:
            timeout_s: how long to wait.
            commit: what is finished. Not where the topic is another one by now, to which these offsets mean nothing.
        """
        self._held.commits = self._held.commits and commit
        self._held.hurried = True
        self.stop()
        if self._thread.is_alive():
            await asyncio.wait((self._ended,), timeout=timeout_s)
        return self.has_left

    @property
    def has_left(self) -> bool:
        """Whether its thread has ended, and with it the membership."""
        return not self._thread.is_alive() or self._ended.done()

    # ------------------------------------------------------------------------------------------------ the thread

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: nobody listens
            log.debug("nobody hears %r", what)

    def _run(self) -> None:
        client: Any = None
        try:
            client = Consumer(self._config(self._on_error) | {"on_commit": self._held.on_commit})
            client.subscribe(
                self._topics, on_assign=self._held.on_assign, on_revoke=self._held.on_revoke, on_lost=self._held.on_lost
            )
            while not self._held.hurried:
                self._turn(client)
        except:  # noqa: E722  # an error of the client's may be no exception
            self._fail(translate(sys.exc_info()[1], "consuming"))
        try:
            if client is not None:
                if self._held.commits:
                    self._held.commit_last(client)
                client.close()
        except:  # noqa: E722  # likewise
            log.debug("closing a consumer failed", exc_info=True)
        for partition in self._held.partitions.values():
            partition.owned, partition.leaving = False, True
        self._tell(_resolve, self._ended, None)

    def _fail(self, error: TransportError) -> None:
        if not self._held.hurried:
            self._held.hurried = True
            self._tell(self._ends, error)

    def _ends(self, error: BusframeError) -> None:
        if self._joined.done():
            self._listener.failed(error)
        else:
            self._joined.set_exception(error)

    def _turn(self, client: Any) -> None:
        while self._commands:
            self._commands.popleft()(client)
        self._held.absorb(client)
        self._pass_on(client)
        room = BATCH - len(self._buffer) - sum(len(partition.pen) for partition in self._held.penned)
        now = time.monotonic()
        if room > 0 and not self._stopped:
            self._blocked_at = None
            if self._held.paused:
                self._held.resume(client)
            records = client.consume(1, POLL_S if not self._held.penned else 0.01)
            room = min(room, self._held.least_room())  # looked up now: this first one may have come with an assignment
            if records and room > 1:
                records += client.consume(room - 1, 0)
            self._fetched(client, records)
            return
        if self._blocked_at is None:
            self._blocked_at = now
        elif now - self._blocked_at > BLOCKED_S and not self._held.paused:
            self._held.pause(client, self._held.partitions.values())
            self._held.paused = True
        if self._held.paused or self._stopped:
            self._fetched(client, client.consume(1, 0))  # it serves the group; what comes all the same is kept
        self._held.wake.wait(POLL_S)
        self._held.wake.clear()

    # ------------------------------------------------------------------------------------------------ records

    def _fetched(self, client: Any, records: Iterable[Any]) -> None:
        partitions, penned = self._held.partitions, self._held.penned
        for raw in records:
            if (error := raw.error()) is not None:
                self._on_error_record(client, raw, error)
                continue
            partition = partitions.get((raw.topic(), raw.partition()))
            if partition is not None:
                partition.fetch(raw.offset(), raw)
                penned[partition] = None
        if records:
            full = [one for one in penned if one.gap >= self._gap(one.topic) and not one.paused]
            self._held.pause(client, full)
            for partition in full:
                partition.paused = True
            self._pass_on(client)

    def _pass_on(self, client: Any) -> None:
        """Let the loop have what may be handled: the crash guard is committed first."""
        if not self._held.penned:
            return
        self._held.learn(client, [one for one in self._held.penned if one.committed is None])
        ready, commits = self._held.ready(beside=bool(self._buffer))
        refused = self._held.commit(client, commits) if commits else {}
        records = [record for one in ready if (one.topic, one.number) not in refused for record in one.hand_over()]
        self._held.penned = {one: None for one in self._held.penned if one.pen and not one.leaving}
        if not records:
            return
        with self._held.lock:
            if self._stopped:
                return
            self._buffer.extend(records)
            wanted, self._wanted = self._wanted, False
        if wanted:
            self._tell(self._listener.arrived)

    async def commit_now(self) -> None:
        """Commit how far records are finished; returns when the server has it.

        Raises:
            TransportError: it has not.
            ClosedError: the thread has ended.
        """
        await self._call(self._held.commit_now)

    def _changed(self, partitions: int, joined: bool) -> None:
        if joined and not self._joined.done():
            self._joined.set_result(None)
        if partitions:
            self._share.set()
        self._listener.assigned(partitions)

    # ------------------------------------------------------------------------------------------------ what goes wrong

    def _on_error(self, error: KafkaError) -> None:
        try:
            self._on_client_error(error)
            if error.fatal() or error.code() in DENIED:
                self._fail(translate(error, "consuming"))
        except:  # noqa: E722  # nothing may leave a callback
            log.debug("an error was not read", exc_info=True)

    def _on_error_record(self, client: Any, raw: Any, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            self._held.begin_where_the_log_does(client, raw.topic(), raw.partition())
        elif code in UNKNOWN_TOPIC:
            self._tell(self._listener.missing)
        elif code in DENIED or error.fatal():
            self._fail(translate(error, "consuming"))
        else:
            log.warning("consuming %s: %s", raw.topic(), error.str())


def _resolve(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
