import asyncio
import json
import socket

import pytest

from busframe import Health
from busframe.cli.probe import listen, response, serve
from busframe.errors import ConfigurationError


@pytest.mark.parametrize(
    ("path", "ready", "status"),
    [("/ready", True, 200), ("/ready", False, 503), ("/live", False, 200), ("/", True, 200)],
)
def test_status(path: str, ready: bool, status: int) -> None:
    """Readiness is that of the bus; /live only asks whether the loop runs."""
    head, body = response(f"GET {path} HTTP/1.1\r\n\r\n".encode(), Health(ready)).split(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"ready": ready, "sources": {}, "problems": []}


def test_what_is_no_request() -> None:
    """Whatever is sent, it is answered as a question for readiness."""
    assert response(b"\r\n\r\n", Health(False)).startswith(b"HTTP/1.1 503 ")


async def test_serves_one_answer_for_each_connection() -> None:
    """A probe is answered and its connection closed; what is no request is closed without an answer."""
    with listen(0) as listener:
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(listener, lambda: Health(True, {"emails": "consuming"}, ["slow"])))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["sources"] == {"emails": "consuming"}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


def test_port_that_is_taken() -> None:
    """A port that cannot be had is an error of configuration, before anything is begun."""
    with socket.create_server(("", 0)) as taken, pytest.raises(ConfigurationError, match="option --health-port: port"):
        listen(taken.getsockname()[1])
