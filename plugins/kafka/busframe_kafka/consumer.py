"""One member of one group: the thread that owns its client, and what the loop may ask of it.

The client is touched by its own thread alone: each of its methods waits for the poll that runs, and would hold the loop
up as long. The thread fetches batches and lets the loop take records from a buffer; the loop says which records are
finished. Offsets are stored as their records are finished without a gap, and the client commits what is stored each
second, when a partition is revoked, and at the end; it commits nothing by itself that was only fetched.

Nothing may be raised out of a callback: an error of the client's is no exception there, and only a bare ``except``
catches what becomes of it.
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
from busframe_kafka.assignment import Partition, Record
from busframe_kafka.client import (
    DENIED,
    UNKNOWN_TOPIC,
    Config,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
    translate,
)

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How long a poll waits, and so how long whatever the loop asks may wait."""
BATCH = 500
BLOCKED_S = 1.5
"""After so long without room in the buffer the partitions are paused: that throws away what the client has fetched."""
ASK_S = 5.0
BEGINNING = -2

T = TypeVar("T")


class Listener:
    """What a member tells, on the loop. All of it may be left out."""

    def arrived(self) -> None:
        """There are records to take, after there were none."""

    def assigned(self, partitions: int) -> None:
        """It has so many partitions now, of those that its group reads."""

    def lost(self) -> None:
        """It has lost its membership: all that it has is delivered again, here or elsewhere."""

    def dropped(self, topic: str, partition: int, records: int) -> None:
        """So many records were deleted by retention before they were fetched."""

    def missing(self) -> None:
        """The server does not know a topic; that may pass."""

    def failed(self, error: BusframeError) -> None:
        """It has ended by itself."""


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
        self._begin = begin
        self._topics = list(topics)
        self.topic = self._topics[0]
        self._listener = listener
        self._gap = gap
        self._revoke_timeout_s = revoke_timeout_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._joined: asyncio.Future[None] = self._loop.create_future()
        self._share = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"busframe kafka {self._topics[0]}", daemon=True)
        self._wake = threading.Event()
        self._closing = False
        self._commits = True
        self._stopped = False
        self._commands: deque[Callable[[Any], None]] = deque()
        # What both sides use, under the lock.
        self._lock = threading.Lock()
        self._buffer: deque[Record] = deque()
        self._wanted = False
        self._finished: deque[Record] = deque()
        # The thread's own.
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._generation = 1
        self._penned: dict[Partition, None] = {}
        self._blocked_at: float | None = None
        self._paused = False
        self.committed: dict[tuple[str, int], int] = {}
        """What is committed of the partitions that it has, as far as it was told."""

    def __repr__(self) -> str:
        return f"<Member {self._topics}: {len(self._partitions)} partitions, {len(self._buffer)} buffered>"

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
        with self._lock:
            buffer = self._buffer
            while buffer and len(taken) < limit:
                record = buffer.popleft()
                if self._start(record):
                    taken.append(record)
            self._wanted = not taken
        if len(self._buffer) < BATCH // 2 and not self._wake.is_set():
            self._wake.set()
        return taken

    def again(self, record: Record) -> bool:
        """Handle a record that was put aside. False: it does not belong here any more."""
        with self._lock:
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
        with self._lock:
            record.partition.in_flight -= 1
        self._wake.set()

    def finish(self, records: Iterable[Record]) -> None:
        """Records that were taken are done with."""
        for record in records:
            self._finished.append(record)  # before it counts as no more in flight
            record.partition.in_flight -= 1
            if record.deliveries > 1 or record.partition.leaving:
                self._wake.set()

    async def call(self, function: Callable[[Any], T]) -> T:
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
        self._wake.set()
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
        with self._lock:
            self._stopped = True
            self._buffer.clear()
        self._wake.set()

    async def close(self, timeout_s: float, *, commit: bool = True) -> bool:
        """Leave the group and end the thread. Returns whether it has ended in time; else it ends by itself.

        Args:
            timeout_s: how long to wait.
            commit: what is finished. Not where the topic is another one by now, to which these offsets mean nothing.
        """
        self._commits = self._commits and commit
        self._closing = True
        self.stop()
        if self._thread.is_alive():
            await asyncio.wait((self._ended,), timeout=timeout_s)
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
            client = Consumer(self._config(self._on_error) | {"on_commit": self._on_commit})
            client.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
            while not self._closing:
                self._turn(client)
        except:  # noqa: E722  # an error of the client's may be no exception
            self._fail(translate(sys.exc_info()[1], "consuming"))
        try:
            if client is not None:
                if self._commits:
                    self._absorb(client)
                client.close()
        except:  # noqa: E722  # likewise
            log.debug("closing a consumer failed", exc_info=True)
        for partition in self._partitions.values():
            partition.owned, partition.leaving = False, True
        self._tell(_resolve, self._ended, None)

    def _fail(self, error: TransportError) -> None:
        if not self._closing:
            self._closing = True
            self._tell(self._ends, error)

    def _ends(self, error: BusframeError) -> None:
        if self._joined.done():
            self._listener.failed(error)
        else:
            self._joined.set_exception(error)

    def _turn(self, client: Any) -> None:
        while self._commands:
            self._commands.popleft()(client)
        self._absorb(client)
        self._pass_on(client)
        room = BATCH - len(self._buffer) - sum(len(partition.pen) for partition in self._penned)
        now = time.monotonic()
        if room > 0 and not self._stopped:
            self._blocked_at = None
            if self._paused:
                self._resume(client)
            records = client.consume(1, POLL_S if not self._penned else 0.01)
            if records and room > 1:
                records += client.consume(room - 1, 0)
            self._fetched(client, records)
            return
        if self._blocked_at is None:
            self._blocked_at = now
        elif now - self._blocked_at > BLOCKED_S and not self._paused:
            self._pause(client, self._partitions.values())
            self._paused = True
        if self._paused or self._stopped:
            self._fetched(client, client.consume(1, 0))  # it serves the group; what comes all the same is kept
        self._wake.wait(POLL_S)
        self._wake.clear()

    # ------------------------------------------------------------------------------------------------ records

    def _fetched(self, client: Any, records: Iterable[Any]) -> None:
        partitions, penned = self._partitions, self._penned
        for raw in records:
            if (error := raw.error()) is not None:
                self._on_error_record(client, raw, error)
                continue
            partition = partitions.get((raw.topic(), raw.partition()))
            if partition is not None:
                partition.fetch(raw.offset(), raw)
                penned[partition] = None
        if records:
            full = [one for one in penned if one.gap > self._gap(one.topic) and not one.paused]
            self._pause(client, full)
            for partition in full:
                partition.paused = True
            self._pass_on(client)

    def _pass_on(self, client: Any) -> None:
        """Let the loop have what may be handled: the crash guard is committed first."""
        if not self._penned:
            return
        self._learn(client, [one for one in self._penned if one.committed is None])
        ready = [one for one in self._penned if one.may_hand_over]
        commits = {(one.topic, one.number): commit for one in ready if (commit := one.to_commit()) is not None}
        refused = self._commit(client, commits) if commits else frozenset[tuple[str, int]]()
        records = [record for one in ready if (one.topic, one.number) not in refused for record in one.hand_over()]
        self._penned = {one: None for one in self._penned if one.pen and not one.leaving}
        if not records:
            return
        with self._lock:
            if self._stopped:
                return
            self._buffer.extend(records)
            wanted, self._wanted = self._wanted, False
        if wanted:
            self._tell(self._listener.arrived)

    def _absorb(self, client: Any) -> None:
        """Store how far records are finished without a gap."""
        changed: dict[Partition, None] = {}
        finished = self._finished
        while finished:
            record = finished.popleft()
            record.partition.finish(record.offset)
            changed[record.partition] = None
        stored = []
        for partition in changed:
            if partition.owned and (commit := partition.advance()) is not None:
                stored.append(TopicPartition(partition.topic, partition.number, *commit))
            if partition.paused and partition.gap <= self._gap(partition.topic) // 2:
                partition.paused = False
                if not self._paused and partition.owned:
                    client.resume([TopicPartition(partition.topic, partition.number)])
        if stored:
            try:
                client.store_offsets(offsets=stored)
            except KafkaException as error:  # revoked meanwhile: then they are delivered again
                log.debug("offsets were not stored: %s", error)

    def _commit(self, client: Any, commits: dict[tuple[str, int], tuple[int, str]]) -> frozenset[tuple[str, int]]:
        """Commit at once. Returns the partitions of which it was refused: their records are delivered again."""
        asked = [TopicPartition(topic, number, *commit) for (topic, number), commit in commits.items()]
        try:
            answers = client.commit(offsets=asked, asynchronous=False)
        except KafkaException as error:
            log.debug("a commit was refused: %s", error)
            return frozenset(commits)
        return frozenset((one.topic, one.partition) for one in answers or () if one.error is not None)

    def commit_now(self, client: Any) -> None:
        """On the thread: commit how far records are finished, and return when the server has it.

        Raises:
            TransportError: it has not.
        """
        self._absorb(client)
        commits = {key: commit for key, one in self._partitions.items() if (commit := one.give_back()) is not None}
        if commits and self._commit(client, commits):
            raise TransportError("the server does not take the commit now")

    # ------------------------------------------------------------------------------------------------ partitions

    def _pause(self, client: Any, partitions: Iterable[Partition]) -> None:
        if paused := [TopicPartition(one.topic, one.number) for one in partitions]:
            client.pause(paused)

    def _resume(self, client: Any) -> None:
        self._paused = False
        if fetched := [TopicPartition(*key) for key, one in self._partitions.items() if not one.paused]:
            client.resume(fetched)

    def _learn(self, client: Any, partitions: Sequence[Partition]) -> None:
        """Ask what is committed."""
        if not partitions:
            return
        try:
            answers = client.committed([TopicPartition(one.topic, one.number) for one in partitions], timeout=ASK_S)
        except KafkaException as error:
            log.debug("what is committed is not known yet: %s", error)
            return
        for partition, answer in zip(partitions, answers, strict=True):
            if answer.error is None:
                partition.remember(answer.offset, answer.metadata)

    def _on_assign(self, client: Any, assigned: Sequence[TopicPartition]) -> None:
        try:
            new = [Partition(one.topic, one.partition, self._generation) for one in assigned]
            self._learn(client, new)
            self._partitions.update({(one.topic, one.number): one for one in new})
            if new and all(one.committed is not None for one in new):
                # Said explicitly: where nothing is committed, nothing was handled, and it begins at the beginning.
                client.incremental_assign([TopicPartition(one.topic, one.number, self._first(one)) for one in new])
            self._paused = False  # the new ones are not
            self._tell(self._assigned, len(self._partitions))
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("an assignment failed", exc_info=True)

    def _first(self, partition: Partition) -> int:
        known = partition.next
        return self._begin(partition.number) if known is None else known

    def _assigned(self, partitions: int) -> None:
        if not self._joined.done():
            self._joined.set_result(None)
        if partitions:
            self._share.set()
        self._listener.assigned(partitions)

    def _on_revoke(self, client: Any, revoked: Sequence[TopicPartition]) -> None:
        leaving: list[Partition] = []
        try:
            leaving = self._leave(revoked)
            until = time.monotonic() + (0.0 if self._closing else self._revoke_timeout_s)
            while any(one.in_flight for one in leaving) and time.monotonic() < until and not self._closing:
                self._wake.wait(POLL_S)
                self._wake.clear()
            if self._commits:
                self._absorb(client)
                given = {(one.topic, one.number): commit for one in leaving if (commit := one.give_back()) is not None}
                if given:
                    self._commit(client, given)
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("giving partitions back failed", exc_info=True)
        self._forget(leaving)
        if not self._partitions:  # so what was received and not started is not started any more
            self._generation += 1
        self._tell(self._listener.assigned, len(self._partitions))

    def _on_lost(self, client: Any, revoked: Sequence[TopicPartition]) -> None:
        try:
            self._forget(self._leave(revoked))
            self._generation += 1
            self._tell(self._listener.lost)
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("losing partitions failed", exc_info=True)

    def _leave(self, revoked: Sequence[TopicPartition]) -> list[Partition]:
        with self._lock:
            found = (self._partitions.get((one.topic, one.partition)) for one in revoked)
            leaving = [one for one in found if one is not None]
            for partition in leaving:
                partition.leaving = True
                partition.pen.clear()
                self._penned.pop(partition, None)
        return leaving

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            partition.owned = False
            self._partitions.pop((partition.topic, partition.number), None)
            self.committed.pop((partition.topic, partition.number), None)

    # ------------------------------------------------------------------------------------------------ what goes wrong

    def _on_commit(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        try:
            for one in offsets:
                if one.error is None and one.offset >= 0 and (one.topic, one.partition) in self._partitions:
                    self.committed[one.topic, one.partition] = one.offset
        except:  # noqa: E722  # nothing may leave a callback
            log.debug("an answer to a commit was not read", exc_info=True)

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
            self._begin_where_the_log_does(client, raw.topic(), raw.partition())
        elif code in UNKNOWN_TOPIC:
            self._tell(self._listener.missing)
        elif code in DENIED or error.fatal():
            self._fail(translate(error, "consuming"))
        else:
            log.warning("consuming %s: %s", raw.topic(), error.str())

    def _begin_where_the_log_does(self, client: Any, topic: str, number: int) -> None:
        """What comes next was deleted, or nothing is committed: go on with the oldest there is."""
        partition = self._partitions.get((topic, number))
        if partition is None:
            return
        low, high = client.get_watermark_offsets(TopicPartition(topic, number), timeout=ASK_S)
        if partition.committed is None:
            self._learn(client, [partition])
        position = self._first(partition)
        client.incremental_unassign([TopicPartition(topic, number)])
        client.incremental_assign([TopicPartition(topic, number, low)])
        if position > high:  # the log was cut short: what comes now has offsets that were used before
            self._forget(self._leave([TopicPartition(topic, number)]))
            anew = self._partitions[topic, number] = Partition(topic, number, self._generation)
            anew.remember(low, None)
            log.error("%s/%d ends at %d, before the committed %d", topic, number, high, position)
        elif BEGINNING < position < low:
            self._tell(self._listener.dropped, topic, number, low - position)


def _resolve(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
