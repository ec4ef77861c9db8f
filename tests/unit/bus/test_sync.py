"""``bus.sync()``: publishing without a loop."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from busframe import Bus, Message, Queue
from busframe.errors import ConfigurationError, MessageTooLarge
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.spi import Host
from tests.support.faulty import Faults, FaultyTransport

JOBS = Queue("jobs", str)


def bus_on(broker: MemoryBroker, faults: Faults) -> Bus:
    """A bus on real time, on a loop thread of its own."""
    return Bus(transport=lambda host: FaultyTransport(host, broker, faults), uses=[JOBS])


def ids(broker: MemoryBroker) -> list[str]:
    """What was published."""
    store = broker.entities["jobs"]
    return [row.message.id for row in store.rows.all.values()]  # type: ignore[union-attr]


def test_many_threads_share_one_connection() -> None:
    """Also where all of them publish first at the same moment."""
    broker, faults = MemoryBroker(), Faults()
    bus = bus_on(broker, faults)
    start = threading.Barrier(16)

    def publish(number: int) -> None:
        start.wait(10)
        bus.sync().publish(JOBS, "x", id=str(number))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(ids(broker), key=int) == [str(number) for number in range(16)]
    assert faults.calls.count("open") == 1
    bus.sync().close()


def test_it_raises_what_publish_raises_and_can_be_closed_and_used_again() -> None:
    """The same errors as with a loop; `close` is idempotent, and the next publish connects anew."""
    broker, faults = MemoryBroker(max_message_bytes=60_000), Faults()
    publisher = bus_on(broker, faults).sync()
    publisher.close()
    with pytest.raises(MessageTooLarge):
        publisher.publish(JOBS, "x" * 60_000)
    assert [message.body for message in publisher.publish_many(JOBS, ["a", "b"])] == [b"a", b"b"]
    publisher.close()
    publisher.close()
    publisher.publish(JOBS, "c", id="c")
    publisher.close()
    assert len(ids(broker)) == 3
    assert faults.calls.count("open") == 2


def test_opening_that_fails_is_raised_and_tried_again_at_the_next_publish() -> None:
    """A process whose first publish failed is not without a connection for ever."""
    broker, faults = MemoryBroker(), Faults()
    faults.fail("plan", 1, ValueError("broken"))
    publisher = bus_on(broker, faults).sync()
    with pytest.raises(ValueError, match="broken"):
        publisher.publish(JOBS, "a")
    publisher.publish(JOBS, "b", id="b")
    publisher.close()
    assert ids(broker) == ["b"]


def test_it_works_beside_a_running_loop() -> None:
    """A synchronous library called from async code publishes through its own loop."""
    broker, faults = MemoryBroker(), Faults()
    publisher = bus_on(broker, faults).sync()

    async def program() -> None:
        publisher.publish(JOBS, "a", id="a")

    asyncio.run(program())
    publisher.close()
    assert ids(broker) == ["a"]


PROGRAM = """
import os, sys
from busframe import Bus, Queue
from busframe.memory import MemoryBroker, MemoryTransport

class Noting(MemoryTransport):
    async def close(self):
        await super().close()
        os.write(1, f"closed {os.getpid() == parent}\\n".encode())

broker, jobs, parent = MemoryBroker(), Queue("jobs", str), os.getpid()
bus = Bus(transport=lambda host: Noting(host, broker), uses=[jobs])
bus.sync().publish(jobs, "a")
"""


def run(program: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.slow
def test_it_is_closed_when_the_program_ends() -> None:
    """What was published was confirmed already; the connection is closed in order."""
    ended = run(PROGRAM)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "closed True\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_the_child_has_a_connection_of_its_own() -> None:
    """The parent's belongs to the parent; each closes its own."""
    fork = """
    import warnings; warnings.simplefilter("ignore")
    child = os.fork()
    bus.sync().publish(jobs, "b")
    if child:
        os.waitpid(child, 0)
    else:
        sys.exit(0)
    """
    ended = run(PROGRAM + textwrap.dedent(fork))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["closed False", "closed True"]


def test_the_transport_sees_the_same_host_as_with_a_loop() -> None:
    """Names, application and clock are there for code without a loop as well."""
    hosts: list[Host] = []
    broker = MemoryBroker()

    def connect(host: Host) -> MemoryTransport:
        hosts.append(host)
        return MemoryTransport(host, broker)

    publisher = Bus(transport=connect, uses=[JOBS], config={"prefix": "p-"}).sync()
    publisher.publish(JOBS, "a")
    publisher.close()
    assert hosts[0].name(JOBS) == "p-jobs"
    assert "p-jobs" in broker.entities


def test_its_own_loop_is_told() -> None:
    """Publishing from what runs on the loop of bus.sync() is an error and no deadlock."""
    seen: list[BaseException] = []

    async def nested(to: Any, message: Message, send: Any) -> None:
        try:
            out.publish(jobs, "inner")
        except ConfigurationError as error:
            seen.append(error)
        await send(message)

    jobs = Queue("jobs", str)
    out = Bus("memory://", uses=[jobs], publish_middleware=[nested]).sync()
    out.publish(jobs, "outer")
    out.close()
    assert "its own event loop" in str(seen[0])
