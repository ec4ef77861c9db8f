"""A TCP proxy between clients and a broker, for the faults of a network: connections that are cut, or go silent."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

R = TypeVar("R")

CHUNK = 65536


class Proxy:
    """Passes bytes on to one address, on an event loop and a thread of its own: checks end with their loops.

    Args:
        host: of the broker.
        port: of the broker.
        listen: where it listens on 127.0.0.1; 0: on a free port.

    Attributes:
        port: where it listens on 127.0.0.1, once it is started.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.port = listen
        self._to = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="busframe proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: dict[asyncio.Task[Any], set[asyncio.StreamWriter]] = {}

    async def start(self) -> None:
        """Listen."""
        self._thread.start()
        await self._there(self._start())

    async def stop(self) -> None:
        """End it, and all connections. Idempotent."""
        if self._thread.is_alive():
            await self._there(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join)
            self._loop.close()

    async def cut(self) -> int:
        """Reset every connection, on both sides; new ones are welcome. Returns how many there were."""
        return await self._there(self._cut())

    async def freeze(self, seconds: float) -> None:
        """Pass nothing on for so many seconds; what is sent meanwhile arrives afterwards."""
        await self._there(self._freeze(seconds))

    # ------------------------------------------------------------------------------------------------ on its own loop

    async def _there(self, work: Coroutine[Any, Any, R]) -> R:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._flowing.set()
        await self._cut()

    async def _cut(self) -> int:
        connections = dict(self._connections)
        for task, writers in connections.items():
            for writer in writers:
                writer.transport.abort()
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        return len(connections)

    async def _freeze(self, seconds: float) -> None:
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._connections[task] = {writer}
        try:
            await self._flowing.wait()
            with suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection(*self._to)
                writers.add(far_writer)
                await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            for each in writers:
                each.close()
            del self._connections[task]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
