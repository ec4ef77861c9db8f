"""busframe_nats.parser"""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from busframe_nats.parser import MessageParser

Got = list[tuple[bytes, bytes, bytes, bytes | None]]

HEADERS = b"NATS/1.0\r\nA: 1\r\n\r\n"
OURS = b"MSG a 1 5\r\nhello\r\nHMSG b 1 r.x 20 25\r\n" + HEADERS.ljust(20) + b"again\r\nMSG c 1 r 0\r\n\r\n"
OTHERS = b"PING\r\nMSG d 2 9\r\nMSG a 1 1\r\nPONG\r\nINFO {}\r\n-ERR 'no'\r\n+OK\r\nHMSG e 3 r 20 24\r\n" + (
    HEADERS.ljust(20) + b"\r\n\r\n\r\n"
)


class Client:
    """What nats-py's parser calls."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.got.append((sid, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self.got.append("ping")

    async def _process_pong(self) -> None:
        self.got.append("pong")

    async def _process_info(self, info: object) -> None:
        self.got.append("info")

    async def _process_err(self, text: str) -> None:
        self.got.append(text)


async def feed(data: bytes, cuts: list[int]) -> tuple[Got, list[Any]]:
    """What is got of some bytes that come in parts."""
    got: Got = []
    client = Client()
    parser = MessageParser(client, {b"1": lambda *message: got.append(message)})
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    begin = 0
    for end in ends:
        await parser.parse(data[begin:end])
        begin = end
    assert not parser.buf
    return got, client.got


@given(cuts=st.lists(st.integers(0, 400), max_size=12), first=st.booleans())
def test_however_it_is_cut_each_gets_its_own(cuts: list[int], first: bool) -> None:
    """In any parts: our messages, those of others, and what is no message, in any order."""
    data = OURS + OTHERS + OURS if first else OTHERS + OURS + OTHERS
    ours, others = asyncio.run(feed(data, cuts))
    headers = HEADERS.ljust(20)
    mine: Got = [(b"a", b"", b"hello", None), (b"b", b"r.x", b"again", headers), (b"c", b"r", b"", None)]
    theirs = ["ping", (2, b"d", b"", b"MSG a 1 1", None), "pong", "info", "'no'", (3, b"e", b"r", b"\r\n\r\n", headers)]
    assert ours == mine * (2 if first else 1)
    assert others == theirs * (1 if first else 2)


async def test_a_large_message_is_joined_once() -> None:
    """It comes in many parts."""
    body = bytes(range(256)) * 4000
    data = b"MSG a 1 %d\r\n%b\r\n" % (len(body), body)
    got, _ = await feed(data + OURS, list(range(0, len(data), 32_768)))
    assert got[0] == (b"a", b"", body, None)
    assert len(got) == 4


async def test_a_function_that_raises_stops_nobody() -> None:
    """What comes after it is taken."""
    got: Got = []

    def raises(*message: Any) -> None:
        got.append(message)
        raise RuntimeError("a bug")

    await MessageParser(Client(), {b"1": raises}).parse(OURS)
    assert len(got) == 3


async def test_what_is_no_protocol_is_told() -> None:
    """As nats-py does: the connection ends then."""
    with pytest.raises(ProtocolError):
        await MessageParser(Client(), {}).parse(b"NONSENSE\r\n")
