"""Opening and leaving a bus: what is checked, who shares it, what is left."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from busframe import Bus, Context, Queue, Retry, Topic
from busframe.errors import (
    AccessDenied,
    ClosedError,
    ConfigurationError,
    ConnectionFailed,
    DestinationNotFound,
    InvalidName,
    TopologyMismatch,
    Unsupported,
)
from busframe.memory import MemoryBroker
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)
OTHERS = Queue("others", str)
EVENTS = Topic("events", str)


async def test_a_broker_that_is_not_there_yet_is_waited_for(bench: Bench) -> None:
    """Within `connect_timeout_s`, with back-off."""
    bench.faults.fail("open", 3, ConnectionFailed("refused"))
    async with bench.bus(uses=[JOBS]) as bus:
        await send(bus, JOBS, "a")
    assert bench.faults.calls.count("open") == 4


@pytest.mark.parametrize("step", ["plan", "apply"])
async def test_a_broker_that_is_lost_at_the_start_is_waited_for(bench: Bench, step: Literal["plan", "apply"]) -> None:
    """What it needs is declared when the broker is there again; with no patience it is an error at once."""
    bench.faults.fail(step, 3, ConnectionFailed("reset by peer"))
    async with bench.bus(uses=[JOBS]) as bus:
        await send(bus, JOBS, "a")
    assert bench.faults.calls.count(step) == 4
    bench.faults.fail(step, 1, ConnectionFailed("reset by peer"))
    with pytest.raises(ConnectionFailed, match="reset by peer"):
        async with bench.bus(uses=[JOBS], config={"connect_timeout_s": 0}):
            pass


@pytest.mark.parametrize("timeout_s", [0, 10])
async def test_a_broker_that_never_comes_is_an_error(bench: Bench, timeout_s: int) -> None:
    """Beyond `connect_timeout_s` opening fails; with 0 it tries once."""
    bench.faults.fail("open", 1000, ConnectionFailed("refused"))
    with pytest.raises(ConnectionFailed, match="refused"):
        async with bench.bus(config={"connect_timeout_s": timeout_s}):
            pass
    assert timeout_s <= now() <= timeout_s + 16
    if timeout_s == 0:
        assert bench.faults.calls.count("open") == 1


async def test_a_broker_that_does_not_answer_is_an_error_that_says_so(bench: Bench) -> None:
    """A connection that hangs is given up, with the setting's name."""
    bench.faults.hang("open")
    with pytest.raises(ConnectionFailed, match="connect_timeout_s"):
        async with bench.bus(config={"connect_timeout_s": 10}):
            pass
    assert now() == pytest.approx(10)


async def test_what_waiting_cannot_help_is_raised_at_once(bench: Bench) -> None:
    """Refused credentials are not tried again."""
    bench.faults.fail("open", 5, AccessDenied("wrong password"))
    with pytest.raises(AccessDenied):
        async with bench.bus():
            pass
    assert now() == 0


async def test_tasks_that_enter_at_once_share_one_connection(bench: Bench) -> None:
    """The first one opens it, the last one closes it."""
    bus = bench.bus(uses=[JOBS])

    async def use(number: int) -> None:
        async with bus:
            await quiet(number)
            await send(bus, JOBS, str(number))

    await asyncio.gather(*map(use, range(5)))
    assert bench.faults.calls.count("open") == 1
    assert sorted(bench.ids(JOBS)) == ["0", "1", "2", "3", "4"]
    with pytest.raises(ClosedError):
        await send(bus, JOBS, "x")


async def test_tasks_that_enter_at_once_all_hear_that_opening_failed(bench: Bench) -> None:
    """Nobody waits for ever for a bus that another task failed to open, and it can be opened afterwards."""
    bench.faults.fail("plan", 3, AccessDenied("refused"))
    bus = bench.bus(uses=[JOBS])

    async def use() -> None:
        async with bus:
            pass

    results = await asyncio.wait_for(asyncio.gather(use(), use(), use(), return_exceptions=True), 60)
    assert [type(result).__name__ for result in results] == ["AccessDenied"] * 3
    async with bus:
        await send(bus, JOBS, "a")


async def test_a_task_cancelled_while_it_waits_for_the_opening_leaves_no_trace(bench: Bench) -> None:
    """The bus is closed when the others have left."""
    bench.faults.fail("open", 1, ConnectionFailed("wait"))
    bus = bench.bus(uses=[JOBS])

    async def use() -> None:
        async with bus:
            await quiet(5)

    first, second = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0.1)
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(ClosedError):
        await send(bus, JOBS, "a")


async def test_opening_that_is_cancelled_leaves_nothing_open(bench: Bench) -> None:
    """Neither the connection nor the bus."""
    bench.faults.hang("plan")
    bus = bench.bus(uses=[JOBS])

    async def use() -> None:
        async with bus:
            pass

    opening = asyncio.create_task(use())
    await quiet(1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with bus:
        await send(bus, JOBS, "a")


async def test_a_bus_can_be_opened_again_and_nested(bench: Bench) -> None:
    """A worker inside an open bus uses its connection, and leaves it open."""
    bus = bench.bus()
    seen: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    for number in range(3):
        async with bus:
            async with bus.worker():
                await send(bus, JOBS, f"{number}")
                await until(lambda: not bench.ids(JOBS))
            await send(bus, JOBS, f"later {number}")
    assert seen == ["0", "later 0", "1", "later 1", "2"]
    assert bench.faults.calls.count("open") == 3


async def test_a_bus_belongs_to_one_loop_at_a_time(bench: Bench) -> None:
    """Entered on another loop it says so; after it was left it opens there."""
    bus = Bus(transport=bench.connect, uses=[JOBS])
    errors: list[BaseException | None] = []

    def elsewhere() -> None:
        async def use() -> None:
            async with bus:
                await bus.publish(JOBS, "x", id="elsewhere")

        try:
            asyncio.run(use())
            errors.append(None)
        except ConfigurationError as error:
            errors.append(error)

    def in_thread() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(10)

    async with bus:
        in_thread()
    in_thread()
    assert "another event loop" in str(errors[0])
    assert errors[1] is None
    assert bench.ids(JOBS) == ["elsewhere"]


def test_a_bus_whose_loop_died_can_be_opened_on_another() -> None:
    """A loop that ended without leaving the bus took its connection along; the bus is not lost with it."""
    broker = MemoryBroker()
    from busframe.memory import MemoryTransport

    bus = Bus(transport=lambda host: MemoryTransport(host, broker), uses=[JOBS])

    async def enter() -> None:
        await bus.__aenter__()

    asyncio.run(enter())
    asyncio.run(enter())


async def test_fifty_cycles_leave_no_task_and_no_thread(bench: Bench) -> None:
    """Workers of both kinds of handlers come and go, and nothing of them stays."""
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    for number in range(50):
        bus = bench.bus(retry=Retry(delay_s=1))

        @bus.handle(JOBS, concurrency=3)
        async def handle(job: str) -> None:
            pass

        @bus.handle(OTHERS, concurrency=2)
        def handle_others(job: str) -> None:
            pass

        async with bus.worker():
            await send(bus, JOBS, f"{number}")
            await send(bus, OTHERS, f"{number}")
            await until(lambda: not bench.ids(JOBS) and not bench.ids(OTHERS))
    assert asyncio.all_tasks() == tasks
    for thread in threading.enumerate():
        if thread.name.startswith("busframe-"):
            thread.join(5)
    assert threading.active_count() == threads
    assert not bench.store(JOBS).consumers


async def test_the_lifespan_is_entered_before_handlers_run_and_left_after_they_ended(bench: Bench) -> None:
    """What it yields is `ctx.state`; a worker's drain is over when it is left."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(bus: Bus) -> AsyncIterator[dict[str, int]]:
        events.append("opened")
        await bus.publish(OTHERS, "it can publish", id="x")
        yield {"pool": 1}
        events.append("closed")

    bus = bench.bus(lifespan=lifespan, uses=[OTHERS])

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        await quiet(5)
        events.append(f"handled with {ctx.state['pool']}")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.held)
    assert events == ["opened", "handled with 1", "closed"]
    assert bench.ids(OTHERS) == ["x"]


async def test_a_lifespan_that_fails_starts_nothing(bench: Bench) -> None:
    """Its error is raised, and the bus is closed."""

    @asynccontextmanager
    async def lifespan(bus: Bus) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    bus = bench.bus(lifespan=lifespan)

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise AssertionError

    with pytest.raises(LookupError):
        async with bus.worker():
            pass
    assert "open receiver" not in bench.faults.calls
    assert not bus.health().ready


async def test_all_that_the_transport_cannot_do_is_refused_at_start_in_one_error(bench: Bench) -> None:
    """Order, delays and temporary subscriptions, each with what to do; nothing was declared."""
    bench.faults.capabilities = {
        "ordering": "none",
        "nack_delay_max_s": 60.0,
        "hold_max_s": 100.0,
        "temporary": False,
    }
    bus = bench.bus(retry=Retry(max_attempts=20, delay_s=10, max_delay_s=3600))

    @bus.handle(JOBS, ordering="key")
    async def one(job: str) -> None: ...

    @bus.handle(OTHERS)
    async def two(job: str) -> None: ...

    @bus.handle(EVENTS.subscription("t", temporary=True), retry=Retry(max_attempts=1))
    async def three(job: str) -> None: ...

    @bus.handle(EVENTS.subscription("e", start="earliest"), retry=Retry(max_attempts=1))
    async def four(job: str) -> None: ...

    with pytest.raises(Unsupported) as caught:
        async with bus.worker():
            pass
    text = str(caught.value)
    for part in ("jobs", "keeps no order", "longer than the 100 s", "others", "at most 60 s", "temporary", "earliest"):
        assert part in text
    assert bench.broker.entities == {}


async def test_a_policy_that_does_not_say_its_longest_delay_cannot_hold_a_key(bench: Bench) -> None:
    """With `ordering="key"` a retry blocks its key, so it must be known for how long."""
    from busframe import Failure, Nack

    def policy(failure: Failure) -> Nack:
        return Nack(1)

    bus = bench.bus(retry=policy)

    @bus.handle(JOBS, ordering="key")
    async def handle(job: str) -> None: ...

    with pytest.raises(Unsupported, match="longest_delay_s"):
        async with bus:
            pass


async def test_contradictions_are_named_all_together(bench: Bench) -> None:
    """Handlers that disagree about their source, names that collide, and a subscription with two meanings."""
    bus = bench.bus(uses=[EVENTS.subscription("s", where={"a": "1"}), Queue("a.b"), Queue("a_b"), Topic("jobs")])
    both = Queue("both", str, bytes)

    @bus.handle(both, only=str, concurrency=2)
    async def one(job: str) -> None: ...

    @bus.handle(both, only=bytes, concurrency=3)
    async def two(job: bytes) -> None: ...

    @bus.handle(EVENTS.subscription("s", where={"a": "2"}))
    async def three(job: str) -> None: ...

    @bus.handle(JOBS, name="one")
    async def four(job: str) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        async with bus:
            pass
    text = str(caught.value)
    for part in ("concurrency=2", "concurrency=3", "where=", "'a.b' and 'a_b'", "queue and a topic", "'one'"):
        assert part in text
    assert len(caught.value.problems) == 5


async def test_names_that_collide_are_an_invalid_name(bench: Bench) -> None:
    """Also where each is valid alone."""
    with pytest.raises(InvalidName):
        async with bench.bus(uses=[Queue("x.y"), Queue("x_y")]):
            pass


async def test_topology_create_makes_everything(bench: Bench) -> None:
    """Queues, topics, subscriptions, each with its dead letters, also in a process that only publishes."""
    async with bench.bus(config={"prefix": "p-"}, uses=[JOBS, EVENTS.subscription("s")]):
        pass
    assert sorted(bench.broker.entities) == ["p-events", "p-events--s", "p-events--s--dead", "p-jobs", "p-jobs--dead"]


async def test_topology_verify_names_what_is_missing_and_makes_nothing(bench: Bench) -> None:
    """Every difference in one error; with everything there it opens."""
    with pytest.raises(TopologyMismatch) as caught:
        async with bench.bus(config={"topology": "verify"}, uses=[JOBS, EVENTS]):
            pass
    assert "jobs" in str(caught.value)
    assert "events" in str(caught.value)
    assert bench.broker.entities == {}
    async with bench.bus(uses=[JOBS, EVENTS]):
        pass
    async with bench.bus(config={"topology": "verify"}, uses=[JOBS, EVENTS]) as bus:
        await send(bus, JOBS, "a")


async def test_topology_assume_asks_nothing(bench: Bench) -> None:
    """The broker is neither compared nor changed; what is missing shows when it is used."""
    async with bench.bus(config={"topology": "assume"}, uses=[JOBS]) as bus:
        with pytest.raises(DestinationNotFound):
            await send(bus, JOBS, "a")
    assert not {"plan", "apply"} & set(bench.faults.calls)


async def test_what_cannot_be_changed_in_place_is_a_mismatch(bench: Bench) -> None:
    """The order of an existing queue is for good; the error names it and the bus is closed."""
    async with bench.bus(uses=[JOBS]):
        pass
    bus = bench.bus()

    @bus.handle(JOBS, ordering="key")
    async def handle(job: str) -> None: ...

    with pytest.raises(TopologyMismatch, match="ordering"):
        async with bus.worker():
            pass
    with pytest.raises(ClosedError):
        await send(bus, JOBS, "a")


async def test_a_bus_that_closes_badly_is_closed_all_the_same(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that does not close is logged and left."""
    bus = bench.bus(uses=[JOBS])
    async with bus:
        transport: Any = bus._opened().transport

        async def broken() -> None:
            raise OSError("reset")

        transport.close = broken
    assert "reset" in caplog.text
    with pytest.raises(ClosedError):
        await send(bus, JOBS, "a")


async def test_the_native_client_is_typed(bench: Bench) -> None:
    """`native` gives what the transport has, and says what that is where another type is asked for."""
    async with bench.bus() as bus:
        assert bus.native(MemoryBroker) is bench.broker
        with pytest.raises(Unsupported, match="MemoryBroker"):
            bus.native(str)


async def test_no_broker_is_an_error_that_shows_the_line_to_write() -> None:
    """A deployment that lost its URL must not confirm into memory."""
    with pytest.raises(ConfigurationError, match="url ="):
        async with Bus(uses=[JOBS]):
            pass
