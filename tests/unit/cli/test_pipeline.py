import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator

import pytest

from busframe import Message
from busframe.cli import pipeline
from busframe.cli.pipeline import InputFailed, Pipeline, lines_of
from busframe.errors import PublishError, PublishFailed


async def bodies(*given: bytes) -> AsyncIterator[tuple[str, bytes]]:
    """These, numbered."""
    for number, body in enumerate(given, 1):
        yield f"line {number}", body


async def test_failure_names_its_line_and_counts_the_others() -> None:
    """One that fails does not hide what became of the others that were under way."""
    ids: list[str] = []

    async def send(body: bytes) -> Message:
        await asyncio.sleep(0.01)
        if body == b"bad":
            raise PublishFailed("no room", message_id="7")
        return Message(body, body.decode())

    sending = Pipeline(send, lambda body: body, ids.append)
    await sending.run(bodies(b"a", b"bad", b"c", b"bad"))
    assert ids == ["a", "c"]
    with pytest.raises(PublishError, match=r"(?s)^line 2: no room \(message 7\)\nline 4: no room"):
        sending.report("jobs")


async def test_many_failures_are_cut_short() -> None:
    """Five failures are told, the others counted."""

    async def send(body: bytes) -> Message:
        raise PublishFailed("no room")

    sending = Pipeline(send, lambda body: body, lambda _: None)
    await sending.run(bodies(*[b"x"] * 8))
    with pytest.raises(PublishError, match=r"line 5: no room\nand 3 more$"):
        sending.report("jobs")


async def test_failure_does_not_wait_for_more_input() -> None:
    """After a failure it ends, though the input has not ended; nothing more is sent."""

    async def endless() -> AsyncIterator[tuple[str, bytes]]:
        yield "line 1", b"x"
        await asyncio.Event().wait()

    async def send(body: bytes) -> Message:
        raise PublishFailed("no room")

    sending = Pipeline(send, lambda body: body, lambda _: None)
    async with asyncio.timeout(5):
        await sending.run(endless())
    assert len(sending.failures) == 1


async def test_no_more_under_way_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much input there is, what is under way is bounded, in number and in bytes."""
    monkeypatch.setattr(pipeline, "WINDOW", 8)
    monkeypatch.setattr(pipeline, "WINDOW_BYTES", 100)
    under_way = most = 0

    async def send(body: bytes) -> Message:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return Message(body, "id")

    counts: list[int] = []
    sending = Pipeline(send, lambda body: body, lambda _: None)
    sending.progress = counts.append
    await sending.run(bodies(*[b"x"] * 50))
    assert most <= 8
    assert counts == list(range(1, 51))
    most = 0
    sending = Pipeline(send, lambda body: body, lambda _: None)
    await sending.run(bodies(*[b"x" * 60] * 20))
    assert most == 1


async def test_lines_come_as_soon_as_they_are_there() -> None:
    """A line is there before the next one is written, and waiting for it does not block the loop."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as out:
        lines = lines_of(stream)
        out.write(b"one\n \ntw")
        assert await anext(lines) == ("line 1", b"one")
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        out.write(b"o\r\n")
        assert await waiting == ("line 3", b"two")
        out.close()
        with pytest.raises(StopAsyncIteration):
            await anext(lines)


async def test_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that does not end is refused, and not kept in memory."""
    monkeypatch.setattr(pipeline, "WINDOW_BYTES", 100)
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", 64)
    lines = lines_of(io.BytesIO(b"one\n" + b"x" * 1000))
    assert await anext(lines) == ("line 1", b"one")
    with pytest.raises(InputFailed, match="longer than 100 bytes"):
        await anext(lines)


async def test_input_that_cannot_be_read() -> None:
    """An error of the input is a failure like that of a line."""

    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise OSError("gone")

    sending = Pipeline(lambda _: asyncio.sleep(0, Message(b"", "")), lambda body: body, lambda _: None)
    await sending.run(lines_of(Broken()))
    assert [(name, str(error)) for name, error in sending.failures] == [("standard input", "it cannot be read: gone")]


def test_reader_ends_with_the_loop() -> None:
    """A reader that still waits when the command has ended does not hold the process, and says nothing."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as out:

        async def first() -> None:
            lines = lines_of(stream)
            out.write(b"one\n")
            await anext(lines)

        asyncio.run(first())
        out.write(b"two\n")
        out.close()
        for thread in threading.enumerate():
            if thread.name == "busframe input":
                thread.join(5)
