"""busframe_nats.pull and busframe_nats.fetch"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from busframe_nats.fetch import Fetch
from busframe_nats.pull import SILENCE_S, Pull
from tests.support.transports import eventually


class Wire:
    """A connection that keeps what is written, and lets a test say what comes."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.handlers: dict[int, Callable[..., None]] = {}
        self.asked: list[dict[str, Any]] = []
        self.ended: list[int] = []

    def new_inbox(self) -> str:
        """A subject."""
        return f"inbox.{len(self.handlers)}"

    def subscribe(self, subject: str, handler: Callable[..., None]) -> int:
        """Keep who listens."""
        self.handlers[len(self.handlers) + 1] = handler
        return len(self.handlers)

    def unsubscribe(self, sid: int) -> None:
        """Keep what ended."""
        self.ended.append(sid)

    def write(self, command: bytes) -> None:
        """Keep what was asked."""
        self.asked.append(json.loads(command.split(b"\r\n")[1]))

    def message(self, sid: int) -> None:
        """A message comes."""
        self.handlers[sid](b"subject", b"reply", b"data", None)

    def status(self, sid: int, line: str, pending: int | None = None) -> None:
        """The server says something of a request."""
        more = "" if pending is None else f"Nats-Pending-Messages: {pending}\r\n"
        self.handlers[sid](b"inbox", b"", b"", f"NATS/1.0 {line}\r\n{more}\r\n".encode())


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        """Its time."""
        return self.now


class Told:
    """What a pull told."""

    def __init__(self) -> None:
        self.messages = 0
        self.troubles: list[tuple[int, str]] = []
        self.clock = Clock()
        self.wire: Any = Wire()
        self.pull = Pull("next", self._message, lambda _, code, text: self.troubles.append((code, text)), self.clock)

    def _message(self, *_: object) -> None:
        self.messages += 1


async def test_what_is_owed_is_what_was_asked_less_what_came() -> None:
    """And less what a request that ended still owed."""
    told = Told()
    told.pull.begin(told.wire)
    told.pull.request(10, 1000)
    told.pull.request(5, 1000)
    assert [asked["batch"] for asked in told.wire.asked] == [10, 5]
    for _ in range(4):
        told.wire.message(1)
    assert (told.pull.owed, told.messages) == (11, 4)
    told.wire.status(1, "100 Idle Heartbeat")
    assert told.pull.owed == 11
    told.wire.status(1, "408 Request Timeout", pending=6)
    assert told.pull.owed == 5
    told.wire.status(1, "409 Message Size Exceeds MaxBytes", pending=5)
    assert told.pull.owed == 0
    assert [code for code, _ in told.troubles] == [0, 0]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("409 Consumer Deleted", 409),
        ("409 Server Shutdown", 409),
        ("409 Leadership Change", 409),
        ("409 Exceeded MaxWaiting", 409),
        ("503", 503),
        ("400 Bad Request", 400),
        ("999 Unheard Of", 999),
    ],
)
async def test_an_end_that_asking_again_may_not_help_is_told(line: str, code: int) -> None:
    """Nothing is owed any more, whatever the server says of what was pending."""
    told = Told()
    told.pull.begin(told.wire)
    told.pull.request(10, 1000)
    told.wire.status(1, line, pending=3)
    assert told.pull.owed == 0
    assert [found for found, _ in told.troubles] == [code]


async def test_a_request_that_ends_without_an_account_leaves_none() -> None:
    """Better to ask for too many once than to wait for what never comes."""
    told = Told()
    told.pull.begin(told.wire)
    told.pull.request(10, 1000)
    told.wire.status(1, "408 Request Timeout")
    assert told.pull.owed == 0


async def test_what_was_on_its_way_when_requests_were_taken_back_still_comes() -> None:
    """It is the server's no more, and would be lost until it is delivered again."""
    told = Told()
    told.pull.begin(told.wire)
    told.pull.request(10, 1000)
    told.pull.withdraw()
    assert told.wire.ended == [1]
    assert not told.pull.is_asking
    told.wire.message(1)
    assert told.messages == 1
    told.pull.begin(told.wire)
    told.pull.request(3, 1000)
    told.wire.message(1)
    told.wire.status(1, "409 Consumer Deleted")
    assert (told.pull.owed, told.messages, told.troubles) == (3, 2, [])


async def test_silence_is_noticed_only_while_something_is_owed() -> None:
    """A heartbeat is a sign of life."""
    told = Told()
    told.pull.begin(told.wire)
    told.clock.now += 2 * SILENCE_S
    assert not told.pull.is_silent
    told.pull.request(1, 1000)
    assert not told.pull.is_silent
    told.clock.now += SILENCE_S - 0.1
    told.wire.status(1, "100 Idle Heartbeat")
    told.clock.now += SILENCE_S - 0.1
    assert not told.pull.is_silent
    told.clock.now += 0.2
    assert told.pull.is_silent


class Asking:
    """A fetch with a number of pulls, and what is held as a test says it."""

    def __init__(self, *, prefetch: int, pulls: int = 1, by_partition: bool = False) -> None:
        self.held = 0
        self.told = [Told() for _ in range(pulls)]
        self.wire: Any = Wire()
        self.fetch = Fetch(
            [told.pull for told in self.told],
            lambda: self.held,
            prefetch,
            8000,
            1000,
            by_partition=by_partition,
        )

    @property
    def batches(self) -> list[int]:
        """What was asked so far."""
        return [asked["batch"] for asked in self.wire.asked]


async def test_it_asks_again_when_a_quarter_is_free() -> None:
    """Never for more than there is room for; one request for each message would double the work."""
    asking = Asking(prefetch=100)
    asking.fetch.begin(asking.wire)
    assert asking.batches == [100]
    for _ in range(60):
        asking.held += 1
        asking.wire.message(1)
    asking.fetch.refill()
    assert asking.batches == [100]
    asking.held -= 24
    asking.fetch.refill()
    assert asking.batches == [100]
    asking.held -= 1
    asking.fetch.refill()
    assert asking.batches == [100, 25]


async def test_narrower_takes_back_and_wider_asks_for_more() -> None:
    """What is held beyond it stays."""
    asking = Asking(prefetch=10)
    asking.fetch.begin(asking.wire)
    asking.held = 3
    asking.fetch.resize(4)
    assert asking.wire.ended == [1]
    assert asking.batches == [10, 1]
    asking.fetch.resize(20)
    assert asking.batches == [10, 1, 16]
    asking.fetch.stop()
    asking.fetch.refill()
    assert asking.wire.ended == [1, 2]
    assert asking.batches == [10, 1, 16]


async def test_one_message_always_fits() -> None:
    """Or the server would say that it does not, for ever."""
    asking = Asking(prefetch=1000)
    asking.held = 999
    asking.fetch.begin(asking.wire)
    assert asking.wire.asked[0]["max_bytes"] >= 1000


async def test_each_partition_is_asked_for_one_message() -> None:
    """Until as many are held as may be: then others may have a free slot, and what was asked is taken back."""
    asking = Asking(prefetch=2, pulls=3, by_partition=True)
    asking.fetch.begin(asking.wire)
    assert asking.batches == [1, 1, 1]
    asking.held += 2
    asking.wire.message(1)
    asking.wire.message(2)
    asking.fetch.refill()
    await eventually(lambda: _taken_back(asking), "what was asked is taken back")
    assert asking.batches == [1, 1, 1]
    asking.held -= 1
    asking.fetch.refill()
    assert asking.batches == [1] * 6


async def _taken_back(asking: Asking) -> bool:
    return bool(asking.wire.ended)


async def test_nothing_is_asked_without_a_connection() -> None:
    """And all of it again with the next one."""
    asking = Asking(prefetch=5)
    asking.fetch.refill()
    asking.fetch.begin(asking.wire)
    asking.fetch.lost()
    asking.fetch.refill()
    assert asking.batches == [5]
    asking.fetch.begin(asking.wire)
    assert asking.batches == [5, 5]
