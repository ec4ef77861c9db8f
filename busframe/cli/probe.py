"""The port of ``worker --health-port``: HTTP for the probes of an orchestrator, and no more HTTP than these need."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

from busframe.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from busframe.runtime.worker import Health

REQUEST_TIMEOUT_S = 5.0
LONGEST_HEAD = 8192


def listen(port: int) -> socket.socket:
    """Take the port, before anything else is begun.

    Raises:
        ConfigurationError: it cannot be had.
    """
    try:
        # All interfaces: the probes come from outside the container.
        return socket.create_server(("", port))
    except (OSError, OverflowError) as failed:
        raise ConfigurationError(f"option --health-port: port {port} cannot be had: {failed}") from failed


async def serve(listener: socket.socket, health: Callable[[], Health]) -> None:
    """Answer until cancelled: ``/live`` is 200 while the loop runs; any other path 200 when ready, else 503."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(response(head, health()))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets no answer, and a worker has better to do than to log it
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=listener, limit=LONGEST_HEAD)
    try:
        await server.serve_forever()
    finally:
        server.close()


def response(head: bytes, health: Health) -> bytes:
    """What to answer to a request with this head."""
    path = head.split(b" ", 2)[1] if head.count(b" ") > 1 else b"/"
    ok = health.ready or path == b"/live"
    facts = {"ready": health.ready, "sources": dict(health.sources), "problems": list(health.problems)}
    body = json.dumps(facts).encode()
    status = b"200 OK" if ok else b"503 Service Unavailable"
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )
