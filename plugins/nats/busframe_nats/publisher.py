"""A pipelined publisher: a window of messages under way, and a queue of those that wait for room or for the connection.

Everything that changes state here is synchronous. A message in the queue that was never sent is surely not there; one
that was may be, until the server has answered. When the connection is lost, what is under way is sent again in its
order over the next one with the same ``Nats-Msg-Id``, so that the server stores nothing twice, as long as it remembers.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

from busframe.errors import (
    AccessDenied,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.logic import wire
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES, message_bytes
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address, DeadLetters, Subscription, Topic
from busframe.spi.batch import Batch, failed_alike
from busframe.spi.deadlines import Deadlines
from busframe.spi.transport import Host
from busframe_nats.answers import NO_RESPONDERS, Answers, JetStream, parse_json
from busframe_nats.client import FLUSH_COMMANDS, Connection
from busframe_nats.entry import Entry
from busframe_nats.explanations import Explanations, no_schedules
from busframe_nats.link import Link
from busframe_nats.mapping import MAX_HEADER_BYTES, encode, status, with_schedule
from busframe_nats.settings import Settings
from busframe_nats.topology import MAX_DELAY_S, Names, bucket

FLUSH_TIMEOUT_S = 5.0
REMEMBERED = 0.8
"""The part of the server's window in which a message is sent again: its clock and ours begin at different times."""

TOO_LARGE = frozenset({10054, 10097})
FULL = frozenset({10002, 10023, 10028, 10047, 10077})
SCHEDULES_DISABLED = 10188


class Publisher:
    """Publishes over one link.

    Args:
        link: the connection.
        answers: of the same.
        jetstream: asked where a destination did not answer.
        names: of streams and subjects.
        settings: windows.
        host: the clock.
    """

    def __init__(
        self, link: Link, answers: Answers, jetstream: JetStream, names: Names, settings: Settings, host: Host
    ) -> None:
        self.schedules = False
        self.max_payload = 0
        self._link = link
        self._answers = answers
        self._explanations = Explanations(jetstream, names)
        self._names = names
        self._host = host
        self._most, self._most_bytes = settings.publish_window, settings.publish_window_bytes
        self._send_again_s = REMEMBERED * settings.duplicate_window_s
        self._roots: dict[int, tuple[Address, str]] = {}
        self._deadlines = Deadlines(self._expire)
        self._queue: deque[Entry] = deque()
        self._window: dict[bytes, Entry] = {}
        self._window_bytes = 0
        self._asides: set[asyncio.Task[None]] = set()
        self._closed = False
        self._is_pumped_soon = False
        self._empty = asyncio.Event()
        self._empty.set()
        link.on_up.append(self._up)
        link.on_down.append(lambda _: self._down())
        answers.denied.append(self._denied)

    def __repr__(self) -> str:
        return f"<Publisher {len(self._window)} under way, {len(self._queue)} waiting>"

    async def publish(self, outgoing: Sequence[Outgoing], timeout_s: float) -> Sequence[Exception | None]:
        """See ``Transport.publish``."""
        if not outgoing:
            return []
        loop = asyncio.get_running_loop()
        batch: Batch[Entry] = Batch(len(outgoing), loop)
        deadline = batch.began + timeout_s
        missing = await self._without_interest(outgoing, timeout_s) if _needs_interest(outgoing) else {}
        entries = batch.entries
        for index, each in enumerate(outgoing):
            try:
                if missing and (each.to, each.delay_s > 0) in missing:
                    raise failed_alike(each, missing[each.to, each.delay_s > 0])
                entry = self._entry(each, batch, index)
            except (PublishError, Unsupported) as error:
                batch.finish(index, error)
                continue
            entries.append(entry)
            self._queue.append(entry)
            if len(self._queue) >= FLUSH_COMMANDS:
                self._pump()
        if not self._is_pumped_soon:  # what is published in one turn of the loop is sent in one go
            self._is_pumped_soon = True
            loop.call_soon(self._pump_soon)
        if batch.left:
            tick = self._deadlines.add(loop, deadline, entries)
            try:
                await batch.done
            finally:
                self._deadlines.remove(tick, entries)
                if batch.left:
                    self._forget(entries)
        return batch.outcomes()

    async def close(self) -> None:
        """Wait a few seconds for what is under way, then end. Idempotent."""
        self._closed = True
        if self._link.connection is not None and (self._queue or self._window):
            self._empty.clear()
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self._empty.wait()
            except TimeoutError:
                pass
        for task in list(self._asides):
            task.cancel()
        await asyncio.gather(*self._asides, return_exceptions=True)
        self._expire([*self._window.values(), *self._queue])

    # ------------------------------------------------------------------------------------------ one message

    async def _without_interest(
        self, outgoing: Sequence[Outgoing], timeout_s: float
    ) -> dict[tuple[Address, bool], Exception]:
        missing: dict[tuple[Address, bool], Exception] = {}
        for to, delayed in {(each.to, each.delay_s > 0): None for each in outgoing}:
            if (isinstance(to, Topic) and delayed) or isinstance(to, Subscription):
                failed: Exception | None = PublishFailed("there was no connection; nothing was sent")
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        failed = await self._explanations.of_missing_interest(to, delayed)
                if failed is not None:
                    missing[to, delayed] = failed
        return missing

    def _entry(self, outgoing: Outgoing, batch: Batch[Entry], index: int) -> Entry:
        message, to = outgoing.message, outgoing.to
        subject = f"{self._root(to)}.{bucket(message.key, message.id)}"
        headers = encode(message, outgoing.carried, outgoing.dedup_key)
        if outgoing.delay_s > 0:
            if not self.schedules or isinstance(to, DeadLetters):
                raise Unsupported(f"{to}: this server cannot delay messages; NATS can from 2.12 on")
            if outgoing.delay_s > MAX_DELAY_S:
                raise Unsupported(f"{to}: a delay of {outgoing.delay_s} s; the longest one is {MAX_DELAY_S} s")
            at = wire.format_time(wire.from_timestamp(self._host.clock() + outgoing.delay_s))
            headers = with_schedule(headers, at, subject)
            subject = f"{self._names.later(to)}.{uuid4().hex}"
        entry = Entry(to, subject.encode(), headers, message.body, message.id, batch, index)
        entry.delayed = outgoing.delay_s > 0
        self._check_size(entry, outgoing)
        return entry

    def _root(self, to: Address) -> str:
        # Composing a name costs as much as all the rest. Kept by identity, with the address, so that no other object
        # can come to have that identity.
        kept = self._roots.get(id(to))
        if kept is None:
            if len(self._roots) >= 1024:
                self._roots.clear()
            kept = self._roots[id(to)] = (to, self._names.to(to))
        return kept[1]

    def _check_size(self, entry: Entry, outgoing: Outgoing) -> None:
        most, message = self.max_payload, outgoing.message
        if entry.size > most - FRAMEWORK_RESERVE_BYTES:
            # A copy that the framework makes may use what is kept free for it.
            is_copy = outgoing.dedup_key not in ("", message.id)
            size = entry.size if is_copy else message_bytes(message)
            limit = most if is_copy else most - FRAMEWORK_RESERVE_BYTES
            if size > limit:
                raise MessageTooLarge(size, limit, message_id=message.id)
        if len(entry.headers) > MAX_HEADER_BYTES:
            raise MessageTooLarge(len(entry.headers), MAX_HEADER_BYTES, message_id=message.id)

    # ------------------------------------------------------------------------------------------ under way

    def _pump_soon(self) -> None:
        self._is_pumped_soon = False
        self._pump()

    def _pump(self) -> None:
        connection, queue = self._link.connection, self._queue
        if connection is None:
            return
        window, commands = self._window, []
        while queue and len(window) < self._most and (self._window_bytes < self._most_bytes or not window):
            entry = queue.popleft()
            if entry.batch is None:
                continue
            if entry.size > connection.max_payload:  # another server than the one that it was judged by
                entry.sends += 1  # as if this one had refused it: what was sent before may be there
                entry.finish(MessageTooLarge(entry.size, connection.max_payload, message_id=entry.message_id))
                continue
            if entry.sends and asyncio.get_running_loop().time() - entry.batch.began > self._send_again_s:
                entry.finish(PublishOutcomeUnknown("the connection was lost for too long", message_id=entry.message_id))
                continue
            reply = entry.reply = self._answers.expect(partial(self._answered, entry))
            entry.sends += 1
            window[reply] = entry
            self._window_bytes += entry.size
            commands.append(
                b"HPUB %b %b %d %d\r\n%b%b\r\n"
                % (entry.subject, reply, len(entry.headers), entry.size, entry.headers, entry.body)
            )
        if commands:
            connection.write(*commands)
        if not queue and not window:
            self._empty.set()

    def _up(self, connection: Connection) -> None:
        self.max_payload = connection.max_payload
        asyncio.get_running_loop().call_soon(self._pump)  # after the others have heard of it

    def _down(self) -> None:
        again = [entry for entry in self._window.values() if entry.batch is not None]
        self._window.clear()
        self._window_bytes = 0
        self._queue.extendleft(reversed(again))

    def _take_out(self, entry: Entry) -> None:
        if self._window.pop(entry.reply, None) is not None:
            self._window_bytes -= entry.size

    def _answered(self, entry: Entry, data: bytes, headers: bytes | None) -> None:
        self._take_out(entry)
        if data[:1] == b"{" and b'"error"' not in data:
            entry.finish(None)
        else:
            self._refused(entry, data, headers)
        if self._queue or not self._window:
            self._pump()

    def _expire(self, entries: Sequence[Entry]) -> None:
        for entry in list(entries):
            if entry.batch is None:
                continue
            failed: PublishError
            if entry.sends:
                failed = PublishOutcomeUnknown("no answer came in time", message_id=entry.message_id)
            else:
                why = "the window was full" if self._link.connection else "there was no connection"
                failed = PublishFailed(f"{why}; nothing was sent", message_id=entry.message_id)
            failed.__cause__ = None if self._link.connection else self._link.error
            batch, entry.batch = entry.batch, None
            batch.finish(entry.index, failed)
        self._forget(entries)

    def _forget(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            entry.batch = None
            if entry.reply in self._window:
                self._take_out(entry)
                self._answers.forget(entry.reply)
        self._pump()

    # ------------------------------------------------------------------------------------------ refusals

    def _refused(self, entry: Entry, data: bytes, headers: bytes | None) -> None:
        code, text = status(headers)
        if code == NO_RESPONDERS:
            self._aside(self._finish(entry, self._explanations.of_no_stream(entry)))
            return
        answer = parse_json(data)
        error = answer.get("error") or {}
        err_code, text = int(error.get("err_code", 0)), str(error.get("description", text or "no answer of JetStream"))
        id = entry.message_id
        if err_code in TOO_LARGE:
            entry.finish(MessageTooLarge(entry.size, self.max_payload, message_id=id))
        elif err_code == SCHEDULES_DISABLED:
            entry.finish(no_schedules(entry.to))
        elif err_code in FULL:
            self._aside(self._finish(entry, self._explanations.of_a_full_stream(entry, text)))
        else:
            transient = int(error.get("code", 500)) >= 500
            entry.finish(PublishFailed(f"{entry.to}: {text} ({err_code})", message_id=id, transient=transient))

    def _denied(self, subject: str, text: str) -> None:
        for entry in list(self._window.values()):
            if entry.subject.decode().lower() == subject:
                self._take_out(entry)
                self._answers.forget(entry.reply)
                failed = PublishFailed(f"{entry.to}: {text}", message_id=entry.message_id, transient=False)
                failed.__cause__ = AccessDenied(text)
                entry.finish(failed)
        self._pump()

    def _aside(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name="busframe nats looks after a publish")
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _finish(self, entry: Entry, outcome: Awaitable[Exception]) -> None:
        entry.finish(await outcome)


def _needs_interest(outgoing: Sequence[Outgoing]) -> bool:
    for each in outgoing:  # for one message, which is usual, half the time of any()
        if each.delay_s > 0 or isinstance(each.to, Subscription):
            return True
    return False
