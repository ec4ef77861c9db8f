"""I: what cannot be handled is a dead letter, once, and nothing of it is lost."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from busframe.conformance.attempts import Attempts
from busframe.conformance.check import Violation, check
from busframe.conformance.harness import NotRunnable
from busframe.conformance.processes import crew
from busframe.conformance.program import PREFETCH
from busframe.conformance.world import World
from busframe.errors import BusframeError
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.logic.retry import Retry
from busframe.model.destination import DeadLetters, Queue
from busframe.model.message import Message
from busframe.model.settlement import DeadLetter

CLOCKS_S = 5.0
"""By how much the clocks of this process and of a broker may differ."""


@check("I1", "after the last attempt there is one dead letter, and the original is gone")
async def one_letter(world: World) -> None:
    """Through a retry in place, and through one that waits at the broker."""
    queue = world.queue()
    attempts = Attempts(world)
    bus = world.bus()

    @bus.handle(queue, retry=Retry(max_attempts=2, delay_s=0, rules={OSError: Retry(max_attempts=2, delay_s=0.1)}))
    async def fail(body: int, ctx: Context) -> None:
        attempts.note(ctx)
        raise OSError("always") if body % 2 else ValueError("always")

    transport = await world.open_client()
    async with bus.worker():
        sent = await world.send(bus, queue, *range(4))
        await attempts.until(2 * len(sent), "two attempts at each")
        letters = await world.dead(transport, queue, len(sent))
        await attempts.quiet()
    if (await world.capabilities()).attempt_exact:
        attempts.were({message.id: [1, 2] for message in sent})
    if {letter.id for letter in letters} != {message.id for message in sent}:
        raise Violation(f"the dead letters were {[letter.id for letter in letters]}")
    world.watch(await world.receiver(transport, queue))
    await world.dead(transport, queue, len(sent))


@check("I2", "a dead letter has the bytes, id and headers of its message, and says why, where from, how often and when")
async def failure_record(world: World) -> None:
    """As ``browse`` shows it, and as a handler of dead letters gets it."""
    queue = world.queue()
    got: list[Message] = []
    bus = world.bus()

    @bus.handle(queue, name="charge", retry=Retry(max_attempts=2, delay_s=0.2, jitter=0))
    async def fail(body: bytes, ctx: Context) -> None:
        raise ValueError("no: “never” €\n")

    original = Message(
        b'\x00{"n": 1}\xff', "", "Order", "application/json", {"Tenant": "a", "x-trace": "ä€"}, "k", "corr"
    )
    transport = await world.open_client()
    async with bus.worker():
        (sent,) = await world.send(bus, queue, original)
        (looked_at,) = await world.dead(transport, queue, 1)
    collector = world.bus()

    @collector.handle(queue.dead_letters)
    async def collect(letter: Message) -> None:
        got.append(letter)

    async with collector.worker():
        await world.until(lambda: got, "the dead letter in its handler")
    for where, letter in (("browse shows", looked_at), ("its handler gets", got[0])):
        for field in ("body", "id", "headers", "content_type", "type", "key", "correlation_id"):
            if getattr(letter, field) != getattr(sent, field):
                raise Violation(f"{field} was {getattr(sent, field)!r}, and {where} {getattr(letter, field)!r}")
        dead = letter.dead
        if dead is None:
            raise Violation(f"{where} a dead letter without a failure record")
        record = (dead.reason, dead.error_type, dead.error_message, dead.attempts, dead.source, dead.handler)
        expected = ("attempts", "ValueError", "no: “never” €\n", 2, str(queue), "charge")
        if record != expected or dead.replays != 0 or not dead.host:
            raise Violation(f"{where} the failure record {record}, not {expected}: {dead}")
        if "ValueError" not in (dead.stack or ""):
            raise Violation(f"{where} the stack {dead.stack!r}")
        first, last, now = dead.first_failed_at, dead.last_failed_at, datetime.now(UTC)
        if first is None or not last - timedelta(seconds=30) < first < last < now + timedelta(seconds=CLOCKS_S):
            raise Violation(f"{where} that it failed first at {first} and last at {last}; it is {now}")


@check("I3", "while a dead letter cannot be stored its message stays: it is tried again, or delivered again")
async def nowhere_to_put_it(world: World) -> None:
    """The dead letters of the source are missing."""
    queue = world.queue()
    letters = DeadLetters(queue)
    transport = await world.open_client()
    await world.declare(transport, queue)
    if await world.harness.native_exists(letters, world.name(letters)):
        await world.harness.delete(letters, world.name(letters))
    message = world.message()
    await world.publish(transport, queue, message)
    receiver = await world.receiver(transport, queue)
    (delivery,) = await world.take(receiver, 1)
    (outcome,) = await receiver.settle([(delivery, DeadLetter("rejected"))])
    if not isinstance(outcome, BusframeError):
        raise Violation(f"there is no place for dead letters, and the settlement ended as {outcome!r}: it is lost")
    await receiver.close()
    failed = asyncio.Event()
    bus = world.bus(config={"topology": "assume"})

    @bus.handle(queue)
    async def reject(body: Message) -> None:
        failed.set()
        raise Reject("never")

    async with bus.worker():
        try:
            async with asyncio.timeout(10 * world.harness.patience):
                await failed.wait()
        except TimeoutError:
            raise Violation("the message that could not be dead-lettered was not delivered again") from None
        await world.declare(transport, queue)
        (letter,) = await world.dead(transport, queue, 1)
    if letter.id != message.id or letter.dead is None or letter.dead.reason != "rejected":
        raise Violation(f"the dead letter was {letter}")
    world.watch(await world.receiver(transport, queue))


@check(
    "I4",
    "a process that dies between storing a dead letter and settling its message may double letters, and loses none",
    tier="X",
)
async def killed_between_copy_and_ack(world: World) -> None:
    """By SIGKILL, when the copy is confirmed, and when it is about to be sent; the next process goes on."""
    queue, count = world.queue(str), 30
    moments = ("after the copy", "before the copy") * 2
    async with world.bus(uses=[queue]) as bus, crew(world, queue, does="reject") as workers:
        sent = [await bus.publish(queue, f"{n}") for n in range(count)]
        for moment in moments:
            await workers.died(await workers.start(dies_after=3, dies=moment))
        last = await workers.start()
        letters = await _letters_of_all(world, queue, sent)
        last.terminate()
        await workers.ended(last, 0)
    if letters > count + len(moments) * PREFETCH:
        raise Violation(f"of {count} messages there are {letters} dead letters, after {len(moments)} crashes")


@check("I8", "a connection that is lost while messages are dead-lettered may double letters, and loses none", tier="X")
async def cut_while_dead_lettering(world: World) -> None:
    """Cut several times."""
    queue = world.queue()
    bus = world.bus()
    given_up: set[str] = set()

    @bus.handle(queue, concurrency=5)
    async def reject(body: int, ctx: Context) -> None:
        given_up.add(ctx.message.id)
        raise Reject("never")

    async with bus:
        sent = [await bus.publish(queue, n) for n in range(60)]
    async with bus.worker():
        for enough in (5, 20, 35):
            await world.until(partial(_more_than, given_up, enough), "the next dead letters")
            await world.harness.disconnect()
        await _letters_of_all(world, queue, sent)


async def _letters_of_all(world: World, queue: Queue[Any], sent: Sequence[Message]) -> int:
    """Wait until each message has a dead letter that says it was rejected, and is gone. Returns how many there are."""
    transport = await world.open_client()
    missing = {message.id for message in sent}
    count = 0

    async def all_there() -> bool:
        nonlocal count
        letters = [stored.message for stored in await transport.browse(queue.dead_letters, limit=1000)]
        missing.difference_update(letter.id for letter in letters if letter.dead and letter.dead.reason == "rejected")
        count = len(letters)
        return not missing

    try:
        await world.until(all_there, "dead letters of all messages", within_s=30)
    except Violation as violation:
        raise Violation(f"{len(missing)} of {len(sent)} messages are no dead letters: {violation}") from None
    with suppress(NotRunnable):  # what comes back is the worker's, and may be a letter already
        await world.emptied(queue)
    world.watch(await world.receiver(transport, queue))
    return count


def _more_than(some: set[str], count: int) -> bool:
    return len(some) > count


@check("I5", "expired and rejected messages are dead letters; a replay works once, from the first attempt; no loops")
async def expired_rejected_replayed(world: World) -> None:
    """A letter that its own handler cannot take stays one letter."""
    queue = world.queue()
    attempts = Attempts(world)
    willing = False
    bus = world.bus()

    @bus.handle(queue, retry=Retry(max_attempts=2, delay_s=0))
    async def handle(body: str, ctx: Context) -> None:
        attempts.note(ctx)
        if not willing:
            raise Reject("not now")

    async with bus:
        (expired,) = await world.send(bus, queue, "expired", ttl_s=0.05)
        published = time.time()
        await world.until(lambda: time.time() > published + 0.1, "its time to be over")
        async with bus.worker():
            (rejected,) = await world.send(bus, queue, "rejected")
            records = {record.message.id: record for record in await world.letters(bus, queue, 2)}
            reasons = {id: record.message.dead.reason for id, record in records.items() if record.message.dead}
            if reasons != {expired.id: "expired", rejected.id: "rejected"} or attempts.of(expired.id):
                raise Violation(f"the dead letters were {reasons}, and handled before: {attempts.all}")
        await _failing_handler_of_letters(world, queue.dead_letters)
        records = {record.message.id: record for record in await world.letters(bus, queue, 2)}
        willing, seen = True, len(attempts.all)
        async with bus.worker():
            if (sent := await bus.dead_letters(queue).replay(records.values())) != 2:
                raise Violation(f"{sent} letters were replayed, not 2")
            await attempts.until(seen + 2, "both letters that were replayed")
            await attempts.quiet()
        replayed = [(attempt.message, attempt.number) for attempt in attempts.all[seen:]]
        if sorted(replayed) != sorted([(expired.id, 1), (rejected.id, 1)]):
            raise Violation(f"the replayed messages were handled as {replayed}, not each once as attempt 1")
        await world.letters(bus, queue, 0)


async def _failing_handler_of_letters(world: World, letters: DeadLetters) -> None:
    attempts = Attempts(world)
    bus = world.bus()

    @bus.handle(letters, concurrency=1, retry=Retry(max_attempts=2, delay_s=0))
    async def fail(letter: Message, ctx: Context) -> None:
        attempts.note(ctx)
        raise ValueError("letters, too")

    async with bus.worker():
        await attempts.until(2, "two attempts at a dead letter")
        await attempts.quiet()


@check("I6", "poison does not stop its neighbours")
async def poison(world: World) -> None:
    """One message that cannot be decoded and one that always fails, among others, with one slot."""
    queue = world.queue()
    bus = world.bus()

    @bus.handle(queue, concurrency=1, retry=Retry(max_attempts=3, delay_s=0, rules={OSError: Retry(max_attempts=1)}))
    async def handle(body: int, ctx: Context) -> None:
        if body < 0:
            raise ValueError("poison") if body == -1 else OSError("poison")
        world.handled(ctx)

    transport = await world.open_client()
    async with bus:
        undecodable = Message(b"{", "", content_type="application/json")
        poisoned = [await bus.publish(queue, body) for body in (undecodable, -1, -2)]
        sent = await world.send(bus, queue, *range(20))
        async with bus.worker():
            await world.until(lambda: len(world.history.handled) >= len(sent), "the neighbours of poison")
            letters = await world.dead(transport, queue, len(poisoned))
    if {letter.id for letter in letters} != {message.id for message in poisoned}:
        raise Violation(f"the dead letters were {[letter.id for letter in letters]}")
    world.balanced()


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def warnings_logged() -> Iterator[list[str]]:
    """What busframe logs as a warning or worse within the block."""
    records, logger = _Records(), logging.getLogger("busframe")
    logger.addHandler(records)
    try:
        yield records.texts
    finally:
        logger.removeHandler(records)


@check("I7", "without dead letters the declared outcome happens: it is dropped, counted, and a warning says so")
async def dropped(world: World) -> None:
    """``dead_letter=False``."""
    queue = world.queue()
    attempts = Attempts(world)
    bus = world.bus()

    @bus.handle(queue, dead_letter=False, retry=Retry(max_attempts=2, delay_s=0))
    async def fail(body: int, ctx: Context) -> None:
        attempts.note(ctx)
        raise ValueError("always")

    transport = await world.open_client()
    with warnings_logged() as warnings:
        async with bus.worker():
            sent = await world.send(bus, queue, 1, 2)
            await attempts.until(4, "two attempts at each")
    if (count := bus.statistics()[str(queue)]["dropped"]) != len(sent):
        raise Violation(f"{len(sent)} messages were dropped, and {count} are counted")
    told = [text for text in warnings if "dropped" in text and str(queue) in text]
    if len(told) != len(sent):
        raise Violation(f"{len(sent)} messages were dropped, and {len(told)} warnings say so: {warnings}")
    world.watch(await world.receiver(transport, queue))
    await world.dead(transport, queue, 0)
