"""busframe_rabbitmq.link: several hosts, in turn, with a pause after each round."""

import asyncio
import random
import socket
from dataclasses import replace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe.model.destination import Queue
from busframe.model.settlement import ACK
from busframe_rabbitmq import link as module
from busframe_rabbitmq.client import Connection
from busframe_rabbitmq.link import Link, Rounds
from busframe_rabbitmq.settings import Server, Settings
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import make_settings
from tests.support.transports import DEADLINE_S, Reports, consuming, declare, make_host, message, proxied, publish_all

EMAILS = Queue[Any]("emails")


def servers(*names: str) -> tuple[Server, ...]:
    """Servers of these names."""
    return make_settings(f"amqp://{','.join(names)}").servers


def test_each_server_once_in_a_round() -> None:
    """In the same order in every round."""
    rounds = Rounds(servers("a", "b", "c"), random.random)
    order = []
    for _ in range(2):
        rounds.begin()
        while not rounds.is_over:
            order.append(rounds.next().host)
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3:] == order[:3]
    rounds.begin(tried=1)
    assert [rounds.next().host, rounds.next().host] == order[:2]
    assert rounds.is_over


def test_clients_spread_over_the_servers() -> None:
    """Each begins with any of them."""
    first = {Rounds(servers("a", "b", "c"), random.Random(seed).random).next().host for seed in range(50)}
    assert first == {"a", "b", "c"}


# ---------------------------------------------------------------------------------------------- pauses


class Fleet:
    """Servers that are not there, and what a link does about them, in order: hosts that are tried, and pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.errors: dict[str, TransportError] = {}
        self.connections: list[FakeConnection] = []
        self._news = asyncio.Event()
        monkeypatch.setattr(module, "connect", self._connect)

    async def _connect(self, settings: Settings, server: Server, name: str) -> Connection:
        self._note(server.host)
        if server.host in self.errors:
            raise self.errors[server.host]
        self.connections.append(FakeConnection())
        return cast(Connection, self.connections[-1])

    async def pause(self, seconds: float) -> None:
        """The host's ``sleep``."""
        self._note("pause")
        await asyncio.sleep(0)

    def _note(self, what: str) -> None:
        self.done.append(what)
        self._news.set()

    async def until(self, count: int) -> list[str]:
        """Wait until so much was done; and what was."""
        async with asyncio.timeout(10):
            while len(self.done) < count:
                self._news.clear()
                await self._news.wait()
        return self.done[:count]

    def link(self, names: str, **more: Any) -> Link:
        """A link to these hosts, in the order in which they are written."""
        host = replace(make_host(), random=lambda: 0.0, sleep=self.pause)
        return Link("test", make_settings(f"amqp://{names}", **more), host, lambda state, cause: None)


class FakeConnection:
    """What a link sees of a connection."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_close: Any = None
        self.on_blocked: Any = None

    def lose(self) -> None:
        """Lose it."""
        error = ConnectionFailed("lost")
        self.on_close(error)
        self.closed.set_result(error)

    async def close(self) -> None:
        """Close it."""


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Servers that are there unless a test says otherwise."""
    return Fleet(monkeypatch)


LONG_ENOUGH = {"reconnect_min_s": 1e-9, "reconnect_max_s": 1e-9}
"""Any connection has lived for longer than that."""


async def test_the_others_are_tried_at_once(fleet: Fleet) -> None:
    """A pause comes after a whole round, and that is longer by the one that was lost from then on."""
    link = fleet.link("a,b,c", **LONG_ENOUGH)
    await link.open()
    fleet.errors = dict.fromkeys("abc", ConnectionFailed("away"))
    fleet.connections[0].lose()
    assert await fleet.until(8) == ["a", "b", "c", "pause", "a", "b", "c", "pause"]
    await link.close()


async def test_a_single_host_is_given_a_pause(fleet: Fleet) -> None:
    """It was just lost: a thousand clients would be back at the same moment."""
    link = fleet.link("a", **LONG_ENOUGH)
    await link.open()
    for _ in range(2):
        fleet.connections[-1].lose()
        await fleet.until(len(fleet.done) + 2)
    assert fleet.done == ["a", "pause", "a", "pause", "a"]
    await link.close()


async def test_connections_that_do_not_last_are_no_new_round(fleet: Fleet) -> None:
    """A cluster that takes connections and drops them is not asked without end and pause."""
    link = fleet.link("a,b", reconnect_max_s=3600)
    await link.open()
    for number in range(3):
        fleet.connections[-1].lose()
        await fleet.until((2, 4, 5)[number])
    assert fleet.done == ["a", "b", "pause", "a", "b"]
    await link.close()


async def test_one_that_works_is_enough_at_the_start(fleet: Fleet) -> None:
    """Whatever is wrong with the others."""
    fleet.errors = {"a": ConnectionFailed("away"), "b": AccessDenied("refused")}
    link = fleet.link("a,b,c")
    await link.open()
    assert fleet.done == ["a", "b", "c"]
    await link.close()


async def test_what_waiting_cannot_mend_is_said_first(fleet: Fleet) -> None:
    """One that refuses us, and one that is only away: waiting does not help."""
    fleet.errors = {"a": AccessDenied("refused"), "b": ConnectionFailed("away")}
    with pytest.raises(AccessDenied, match="refused"):
        await fleet.link("a,b").open()
    fleet.errors = dict.fromkeys("ab", ConnectionFailed("away"))
    with pytest.raises(ConnectionFailed, match="away"):
        await fleet.link("a,b").open()


async def test_who_refuses_is_warned_of_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on trying, but somebody has to act."""
    link = fleet.link("a,b", **LONG_ENOUGH)
    await link.open()
    fleet.errors = {"a": AccessDenied("refused"), "b": ConnectionFailed("away")}
    fleet.connections[0].lose()
    await fleet.until(12)
    await link.close()
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["test: cannot connect: refused"]


# ---------------------------------------------------------------------------------------------- a real server


def through(url: str, *ports: int) -> str:
    """The URL with these hosts instead."""
    parts = urlsplit(url)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{hosts}").geturl()


def in_use(transport: RabbitMQ) -> list[int]:
    """The ports of the servers that publishing and consuming are connected to."""
    links = (transport.publishing, transport.consuming)
    return [link.connection.server.port for link in links if link.connection is not None]


async def test_both_connections_go_to_the_next_host(rabbitmq_vhost: str) -> None:
    """When theirs ends, and at once: the first pause would be longer than this test may take."""
    reports = Reports()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with proxied(rabbitmq_vhost) as (one, _), proxied(rabbitmq_vhost) as (other, _):
            url = through(rabbitmq_vhost, unused.getsockname()[1], one.port, other.port)
            settings = make_settings(url, reconnect_min_s=300.0, reconnect_max_s=300.0)
            transport = RabbitMQ(settings, replace(make_host(reports), random=lambda: 0.0))
            await transport.open()
            assert in_use(transport) == [one.port, one.port]
            await declare(transport, EMAILS)
            async with consuming(transport, EMAILS) as receiver:
                await publish_all(transport, EMAILS, message(id="before"))
                await one.stop()
                await reports.wait("connection", "down")
                await publish_all(transport, EMAILS, message(id="after"))
                got: set[str] = set()
                async with asyncio.timeout(DEADLINE_S):
                    while got != {"before", "after"}:
                        batch = await receiver.receive(2)
                        got |= {delivery.message.id for delivery in batch}
                        # What came before the consumer's own connection ended is lost to it, and comes again.
                        await receiver.settle([(delivery, ACK) for delivery in batch])
            assert in_use(transport) == [other.port, other.port]
            await transport.close()
