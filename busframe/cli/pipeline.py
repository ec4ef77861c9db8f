"""Sending many messages: in order, many at once, in bounded memory, and saying which one failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import click

from busframe.errors import BusframeError, PublishError

if TYPE_CHECKING:
    from busframe.model.message import Message

Bodies: TypeAlias = AsyncIterator[tuple[str, bytes]]
"""What is to be sent, each with a name for error texts: (``line 3``, body)."""

WINDOW = 1000
WINDOW_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 64 * 1024


class Pipeline:
    """Sends bodies until all are confirmed or one fails; then nothing more is sent, and what is under way is awaited.

    Args:
        send: publishes one payload.
        make: makes a payload of a body.
        confirmed: told the id of each confirmed message, in order.
    """

    def __init__(
        self,
        send: Callable[[Any], Awaitable[Message]],
        make: Callable[[bytes], object],
        confirmed: Callable[[str], None],
    ) -> None:
        self._send = send
        self._make = make
        self._confirmed = confirmed
        self.progress: Callable[[int], None] = lambda _: None
        self.count = 0
        self.failures: list[tuple[str, BusframeError]] = []
        self._under_way: asyncio.Queue[tuple[str, int, asyncio.Future[Message]] | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(WINDOW)
        self._bytes = 0
        self._smaller = asyncio.Event()

    async def run(self, bodies: Bodies) -> None:
        """Send everything. Failures are kept for ``report``.

        If cancelled: what is under way may or may not be sent.
        """
        sending = asyncio.create_task(self._send_all(bodies))
        try:
            await self._collect()
        finally:
            sending.cancel()  # it may wait for the next line of somebody who types
        with suppress(asyncio.CancelledError):
            await sending

    async def _send_all(self, bodies: Bodies) -> None:
        try:
            async for name, body in bodies:
                await self._slots.acquire()
                while self._bytes and self._bytes + len(body) > WINDOW_BYTES:
                    self._smaller.clear()
                    await self._smaller.wait()
                if self.failures:
                    return
                payload = self._payload(name, body)
                if payload is None:
                    return
                # No await between the two: what was begun is always collected.
                sent = asyncio.ensure_future(self._send(payload[0]))
                self._under_way.put_nowait((name, len(body), sent))
                self._bytes += len(body)
        except InputFailed as error:
            self.failures.append((error.name, error))
        finally:
            self._under_way.put_nowait(None)

    def _payload(self, name: str, body: bytes) -> tuple[object] | None:
        try:
            return (self._make(body),)
        except BusframeError as error:
            self.failures.append((name, error))
            return None

    async def _collect(self) -> None:
        failed = False
        while not (failed and self._under_way.empty()) and (item := await self._under_way.get()) is not None:
            name, size, sent = item
            try:
                message = await sent
            except BusframeError as error:
                self.failures.append((name, error))
                failed = True
            else:
                self.count += 1
                self._confirmed(message.id)
                self.progress(self.count)
            self._bytes -= size
            self._smaller.set()
            self._slots.release()

    def report(self, destination: str) -> None:
        """Say how many were confirmed.

        Raises:
            PublishError: some were not; says which.
        """
        click.echo(f"{self.count} confirmed by {destination}", err=True)
        if self.failures:
            texts = [f"{name}: {str(error).strip()}" for name, error in self.failures[:5]]
            texts += [f"and {len(self.failures) - 5} more"] * (len(self.failures) > 5)
            raise PublishError("\n".join(texts))


class InputFailed(BusframeError):
    """The input cannot be taken."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name


async def repeated(body: bytes, count: int) -> Bodies:
    """One body so many times."""
    for number in range(1, count + 1):
        yield f"message {number}", body


async def lines_of(stream: IO[bytes]) -> Bodies:
    """The lines of a stream that are not empty, each as soon as it is there.

    A thread reads them, a chunk ahead: a pipe or a terminal would block the loop. It is a daemon, because nothing can
    interrupt it while it waits for input.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[list[tuple[int, bytes]] | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(2)
    ended = threading.Event()

    def give(chunk: list[tuple[int, bytes]] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody wants it any more
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    def read() -> None:
        try:
            for lines in _chunks(stream):
                room.acquire()
                if ended.is_set():
                    return
                give(lines)
        except (OSError, ValueError, InputFailed) as failed:
            give(failed)
        else:
            give(None)

    threading.Thread(target=read, name="busframe input", daemon=True).start()
    try:
        while (chunk := await chunks.get()) is not None:
            if isinstance(chunk, InputFailed):
                raise chunk
            if isinstance(chunk, Exception):
                raise InputFailed("standard input", f"it cannot be read: {chunk}") from chunk
            for number, line in chunk:
                yield f"line {number}", line
            room.release()
    finally:
        ended.set()
        room.release()


def _chunks(stream: IO[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    read1 = getattr(stream, "read1", None) or stream.read
    number, rest = 0, b""
    while chunk := read1(CHUNK_BYTES):
        *complete, rest = (rest + chunk).split(b"\n")
        lines = []
        for line in complete:
            number += 1
            if line.strip():
                lines.append((number, line.strip()))
        if lines:
            yield lines
        if len(rest) > WINDOW_BYTES:
            raise InputFailed(f"line {number + 1}", f"it is longer than {WINDOW_BYTES} bytes")
    if rest.strip():
        yield [(number + 1, rest.strip())]
