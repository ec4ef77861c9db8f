"""What a day would show, in minutes: memory over a million messages, an idle worker, a server that is too slow.

``python -m tests.benchmarks endurance``, or with another number of messages ``python -m tests.benchmarks.endurance N``.
It ends with exit code 1 where a bar is missed. Each process that is measured does nothing else.
"""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import IO

from rich.console import Console
from rich.table import Table

from busframe import Bus, Context, Queue
from busframe.errors import PublishError
from tests.benchmarks.payload import ORDER, Order
from tests.brokers.find import running
from tests.brokers.rabbitmq import BROKER as RABBITMQ
from tests.brokers.toxiproxy import BROKER as TOXIPROXY

_MODULE = "tests.benchmarks.endurance"

MESSAGES = 1_000_000
WARM_UP = 10_000
SOURCES = 5
IDLE_S = 60
SLOW_S = 60

BLOB = os.urandom(10_000)
PIECE = 1000

GROWTH_MIB = 2.0
"""How much larger the last tenth may be than the first: an allocator's noise."""
IDLE_PERCENT = 1.0
HELD_MIB = 64.0
"""What a publisher may hold for a server that takes nothing: two windows of a thousand bodies, each in some copies."""

orders = Queue("orders", Order)
blobs = Queue("blobs", bytes)
idle = [Queue(f"idle-{number}", Order) for number in range(SOURCES)]


# ---------------------------------------------------------------------------------------------- what is measured


async def handle_orders() -> None:
    """A worker; it prints how many it has handled."""
    bus = Bus()
    handled = itertools.count(1)

    @bus.handle(orders, concurrency=100, prefetch=200)
    async def handle(order: Order, ctx: Context) -> None:
        number = next(handled)
        if number % 1000 == 0:
            say(number)

    async with bus.worker():
        await asyncio.Event().wait()


async def wait_for_work() -> None:
    """A worker of several sources; it prints when it consumes."""
    bus = Bus()
    for queue in idle:

        @bus.handle(queue, name=queue.name)
        async def handle(order: Order) -> None: ...

    async with bus.worker():
        say(0)
        await asyncio.Event().wait()


async def publish_one_by_one() -> None:
    """A thousand publishers, none of which ever ends."""

    async def publisher(bus: Bus) -> None:
        while True:
            await _insist(lambda: bus.publish(blobs, BLOB))

    async with Bus(uses=[blobs]) as bus:
        await bus.publish_many(blobs, [BLOB] * PIECE)
        await _told_to_go_on()
        await asyncio.gather(*(publisher(bus) for _ in range(PIECE)))


async def publish_many() -> None:
    """One publisher of very much; in pieces, because what was confirmed is returned."""
    async with Bus(uses=[blobs]) as bus:
        await bus.publish_many(blobs, [BLOB] * PIECE)
        await _told_to_go_on()
        while True:
            await _insist(lambda: bus.publish_many(blobs, (os.urandom(len(BLOB)) for _ in range(PIECE))))


async def _insist(publish: Callable[[], Awaitable[object]]) -> None:
    try:
        await publish()
    except PublishError:
        await asyncio.sleep(0.1)


async def _told_to_go_on() -> None:
    say(0)
    await asyncio.to_thread(sys.stdin.readline)


def say(done: int) -> None:
    """Tell who measures."""
    sys.stdout.write(f"{done}\n")
    sys.stdout.flush()


ROLES = {role.__name__: role for role in (handle_orders, wait_for_work, publish_one_by_one, publish_many)}


# ---------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Sample:
    """How large a process was, and what it had done."""

    at: float
    done: int
    mib: float


class Process:
    """A process that is measured."""

    def __init__(self, role: Callable[[], object], url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, role.__name__],
            env={**os.environ, "BUSFRAME_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        self.samples: list[Sample] = []

    def wait(self, done: int = 0) -> None:
        """Wait until it says that it has done so much; samples whenever it says something."""
        while (line := self._output.readline()) and (number := int(line)) < done:
            self.sample(number)
        assert line, "the process ended"

    def go_on(self) -> None:
        """Tell it to."""
        self._input.write(b"\n")
        self._input.flush()

    def sample(self, done: int = 0) -> None:
        """Look at its size."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        self.samples.append(Sample(time.monotonic(), done, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    def watch(self, seconds: float) -> None:
        """Sample for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.sample()
            time.sleep(0.25)
        assert self._process.poll() is None, "the process ended"

    @property
    def cpu_s(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def process(role: Callable[[], object], url: str) -> Iterator[Process]:
    """A process that is gone afterwards."""
    started = Process(role, url)
    try:
        yield started
    finally:
        started.end()


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table."""

    what: str
    measured: str
    bar: str
    good: bool


def _tenths(samples: list[Sample]) -> tuple[float, float]:
    tenth = max(1, len(samples) // 10)
    return mean(each.mib for each in samples[:tenth]), mean(each.mib for each in samples[-tenth:])


def memory_of_a_worker(url: str, messages: int) -> Result:
    """One worker handles very many messages, while another process publishes them."""
    with process(handle_orders, url) as worker:
        began = time.monotonic()
        command = [sys.executable, "-m", _MODULE, "fill", str(messages)]
        filling = subprocess.Popen(command, env={**os.environ, "BUSFRAME_URL": url})
        worker.wait(messages)
        took_s = time.monotonic() - began
        assert filling.wait() == 0
        first, last = _tenths([each for each in worker.samples if each.done > WARM_UP])
    return Result(
        f"{messages:,} messages through one worker, {messages / took_s:,.0f}/s",
        f"{first:.1f} → {last:.1f} MiB",
        f"≤ {GROWTH_MIB:+.0f} MiB",
        last - first <= GROWTH_MIB,
    )


def idle_worker(url: str) -> Result:
    """A worker of several sources to which nobody publishes."""
    with process(wait_for_work, url) as worker:
        worker.wait()
        time.sleep(2)  # to settle down
        before, began = worker.cpu_s, time.monotonic()
        time.sleep(IDLE_S)
        percent = (worker.cpu_s - before) / (time.monotonic() - began) * 100
    return Result(
        f"an idle worker of {SOURCES} sources for {IDLE_S} s", f"{percent:.2f} % of a core",
        f"≤ {IDLE_PERCENT:g} %", percent <= IDLE_PERCENT,
    )  # fmt: skip


async def fill(messages: int) -> None:
    """Publish so many orders."""
    async with Bus(uses=[orders]) as bus:
        await bus.publish_many(orders, (ORDER for _ in range(messages)))


def slow_server(url: str, role: Callable[[], object], what: str, kb_per_s: int) -> Result:
    """A publisher of 10 kB bodies on a line that carries far less than it publishes."""
    with (
        running(TOXIPROXY, own=True) as toxiproxy,
        toxiproxy.before(url) as network,
        process(role, network.url) as publisher,
    ):
        publisher.wait()
        publisher.sample()
        start = publisher.samples[0].mib
        with network.toxic("bandwidth", "upstream", rate=kb_per_s):
            publisher.go_on()
            publisher.watch(SLOW_S)
        most = max(each.mib for each in publisher.samples)
        first, last = _tenths(publisher.samples[len(publisher.samples) // 2 :])
    return Result(
        f"{role.__name__} to a {what} server for {SLOW_S} s",
        f"{start:.0f} → {most:.0f} MiB, in the second half {last - first:+.1f}",
        f"≤ +{HELD_MIB:.0f} MiB, ≤ {GROWTH_MIB:+.0f} MiB",
        most - start <= HELD_MIB and last - first <= GROWTH_MIB,
    )


def main(messages: int = MESSAGES) -> None:
    """Measure against servers of our own, and print a table."""
    with running(RABBITMQ, own=True) as server:
        results = [
            memory_of_a_worker(server.url, messages),
            idle_worker(server.url),
            *(
                slow_server(server.url, role, what, kb_per_s)
                for role in (publish_one_by_one, publish_many)
                for what, kb_per_s in (("slow", 500), ("frozen", 1))
            ),
        ]
    table = Table(title="endurance", title_justify="left")
    for column in ("", "measured", "bar", ""):
        table.add_column(column)
    for result in results:
        table.add_row(result.what, result.measured, result.bar, "" if result.good else "MISSED")
    Console(width=120).print(table)
    if not all(result.good for result in results):
        sys.exit(1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", number]:
            asyncio.run(fill(int(number)))
        case [role] if role in ROLES:
            asyncio.run(ROLES[role]())
        case [number]:
            main(int(number))
        case _:
            main()
