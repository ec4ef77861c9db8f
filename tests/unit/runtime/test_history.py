"""Random handlers, random faults, any ordering and concurrency: whatever happens, every message has one end."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from busframe import Context, Discard, PauseSource, Queue, Reject, Retry, RetryAfter
from busframe.errors import SettlementLost, TransportError
from busframe.spi import Delivery, Settlement
from tests.support.bench import Bench, until
from tests.support.faulty import Lost
from tests.support.virtual_loop import VirtualLoop

JOBS = Queue("jobs", str)

Outcome = Literal["ok", "fail", "reject", "discard", "retry after", "slow", "pause", "time out", "cancel"]
Fault = Literal[
    "cut", "lose ack", "settle fails", "settle raises", "receive fails", "open fails", "too late", "restart", "down"
]

outcomes = st.lists(
    st.sampled_from(["ok", "ok", "fail", "reject", "discard", "retry after", "slow", "pause", "time out", "cancel"]),
    max_size=4,
)
"""What a message's attempts do, in order; after the last one it is handled well."""


@dataclass(frozen=True)
class Plan:
    messages: list[list[Outcome]]
    faults: list[tuple[float, Fault]]
    ordering: Literal["none", "key"]
    concurrency: int
    prefetch: int
    delay_s: float
    workers: int


plans = st.builds(
    Plan,
    messages=st.lists(outcomes, min_size=1, max_size=12),
    faults=st.lists(
        st.tuples(
            st.floats(0, 20).map(lambda at: round(at, 2)),
            st.sampled_from(
                [
                    "cut",
                    "lose ack",
                    "settle fails",
                    "settle raises",
                    "receive fails",
                    "open fails",
                    "too late",
                    "restart",
                    "down",
                ]
            ),
        ),
        max_size=6,
    ),
    ordering=st.sampled_from(["none", "key"]),
    concurrency=st.integers(1, 4),
    prefetch=st.integers(1, 8),
    delay_s=st.sampled_from([0.0, 0.5, 3.0]),
    workers=st.integers(1, 2),
)


class Run:
    """One plan carried out, with its history."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bench = Bench()
        self.left = {str(number): list(script) for number, script in enumerate(plan.messages)}
        self.succeeded: defaultdict[str, int] = defaultdict(int)
        self.discarded: set[str] = set()
        self.order: defaultdict[str, list[int]] = defaultdict(list)
        self.verdicts: list[Exception] = []
        self.running: defaultdict[str, int] = defaultdict(int)
        self.bench.faults.judge = self.judge

    def judge(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        if not self.verdicts:
            return None
        verdict = self.verdicts.pop()
        if isinstance(verdict, SettlementLost):
            self.bench.cut()
        return verdict

    def bus(self) -> Any:
        plan = self.plan
        bus = self.bench.bus(
            config={"drain_timeout_s": 3},
            retry=Retry(max_attempts=4, delay_s=plan.delay_s, factor=1.5, jitter=0, give_up_on=(ZeroDivisionError,)),
        )

        @bus.handle(JOBS, ordering=plan.ordering, concurrency=plan.concurrency, prefetch=plan.prefetch, timeout_s=2.0)
        async def handle(job: str, ctx: Context) -> None:
            script = self.left[job]
            outcome = script.pop(0) if script else "ok"
            await asyncio.sleep(0.01)
            match outcome:
                case "fail":
                    raise ValueError
                case "reject":
                    raise Reject
                case "discard":
                    self.discarded.add(job)
                    raise Discard
                case "retry after":
                    raise RetryAfter(1)
                case "pause":
                    raise PauseSource(2)
                case "time out":
                    await asyncio.sleep(100)
                case "slow":
                    await asyncio.sleep(1.5)
                case "cancel":
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(1)
            self.succeeded[job] += 1
            self.order[ctx.message.key or ""].append(int(job))

        return bus

    async def work(self, restart: asyncio.Event, ending: asyncio.Event) -> None:
        while not ending.is_set():
            restart.clear()
            async with self.bus().worker() as worker:
                stop = [asyncio.ensure_future(restart.wait()), asyncio.ensure_future(ending.wait())]
                await asyncio.wait(stop, return_when=asyncio.FIRST_COMPLETED)
                for waiter in stop:
                    waiter.cancel()
                if ending.is_set():
                    source = worker.sources[0]
                    await until(lambda source=source: source.in_flight == 0, "all credit is back")  # type: ignore[misc]
                    assert not source._slots.lanes._held, "a key is held for ever"
                    await until(lambda worker=worker: worker.health().ready, "it consumes again")  # type: ignore[misc]

    async def carry_out(self) -> None:
        bench, plan = self.bench, self.plan
        loop = asyncio.get_running_loop()
        restarts = [asyncio.Event() for _ in range(plan.workers)]
        ending = asyncio.Event()
        async with bench.bus(uses=[JOBS]) as publisher, asyncio.TaskGroup() as group:
            if plan.ordering == "key":
                bench.broker.delete("jobs")  # the workers declare it with its order
            for restart in restarts:
                group.create_task(self.work(restart, ending))
            await until(lambda: "jobs" in bench.broker.entities)
            for number in range(len(plan.messages)):
                await publisher.publish(JOBS, str(number), id=str(number), key=str(number % 3))
            for at, fault in sorted(plan.faults):
                await asyncio.sleep(max(0.0, at - loop.time()))
                self.inject(fault, restarts)
            await until(lambda: not bench.ids(JOBS), "every message has its end", deadline_s=3000)
            ending.set()

    def inject(self, fault: Fault, restarts: list[asyncio.Event]) -> None:
        faults = self.bench.faults
        match fault:
            case "cut":
                self.bench.cut()
            case "lose ack":
                self.verdicts.append(Lost())
            case "settle fails":
                self.verdicts += [TransportError("no answer")] * 3
            case "too late":
                self.verdicts.append(SettlementLost("cut"))
            case "settle raises":
                faults.fail("settle", 2)
            case "receive fails":
                faults.fail("receive", 2)
            case "open fails":
                faults.fail("receive")
                faults.fail("open receiver", 2)
            case "restart":
                restarts[0].set()
            case "down":
                for host in faults.hosts:
                    host.report("jobs", "down", None)
                    host.report("jobs", "up", None)

    def check(self) -> None:
        letters = self.bench.letters(JOBS)  # none is there twice: that is asserted there
        for job in self.left:
            ends = [
                name
                for name, is_so in (
                    ("handled", self.succeeded[job] > 0),
                    ("discarded", job in self.discarded),
                    ("dead", job in letters),
                )
                if is_so
            ]
            assert ends, f"message {job} was lost"
        for job, info in letters.items():
            assert info.reason in ("attempts", "rejected")
            assert info.attempts <= 4
            assert job in self.left
        disturbing = {"cut", "too late", "restart", "open fails", "receive fails"}
        if self.plan.workers > 1:
            disturbing.add("lose ack")  # what one process remembers another one does not
        disturbed = any(fault in disturbing for _, fault in self.plan.faults)
        if not disturbed:
            assert all(count == 1 for count in self.succeeded.values() if count), "a message was handled twice"
            for job in letters:
                assert not self.succeeded[job], f"message {job} was handled, and is a dead letter"
            if self.plan.ordering == "key":
                for key, order in self.order.items():
                    assert order == sorted(order), f"key {key} was reordered: {order}"


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans)
@example(Plan([["pause"], ["fail", "fail"], ["cancel"]], [(0.5, "cut"), (1, "restart")], "key", 1, 1, 0.5, 1))
def test_every_message_ends_once_whatever_happens(plan: Plan) -> None:
    """Handled, discarded, or in the dead letters exactly once; no credit and no key is left behind."""
    run = Run(plan)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run.carry_out())
    run.check()
