"""Dead letters: what they are, and what handles them."""

from itertools import pairwise

import pytest

from busframe import Context, Discard, Message, PauseSource, Queue, Reject, Retry, Topic
from busframe.spi import Ack, DeadLetter
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)


async def test_a_letter_is_the_original_with_the_whole_record(bench: Bench) -> None:
    """Bytes, id, headers, key and correlation id as they were; reason, error, attempts, times, source and host."""
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=2, factor=1, jitter=0))

    @bus.handle(JOBS, name="worker-of-jobs")
    async def handle(job: str) -> None:
        raise LookupError("no such thing")

    async with bus.worker():
        sent = await bus.publish(JOBS, "böse", id="a", key="k", headers={"X": "y"}, correlation_id="c", ttl_s=900)
        await until(lambda: bench.letters(JOBS))
    (row,) = bench.rows(JOBS.dead_letters)
    letter = row.message
    assert (letter.body, letter.id, letter.headers, letter.key, letter.correlation_id) == (
        sent.body,
        "a",
        {"X": "y"},
        "k",
        "c",
    )
    info = bench.letters(JOBS)["a"]
    assert (info.reason, info.attempts, info.source, info.handler) == ("attempts", 3, "jobs", "worker-of-jobs")
    assert (info.error_type, info.error_message) == ("LookupError", "no such thing")
    assert "raise LookupError" in (info.stack or "")
    assert info.first_failed_at is not None
    assert (info.last_failed_at - info.first_failed_at).total_seconds() == 4
    assert info.host == bench.faults.hosts[-1].instance
    assert info.replays == 0
    assert not {"bf-attempt", "bf-expires-at"} & set(row.carried)
    assert bench.ids(JOBS) == []


async def test_reject_and_discard(bench: Bench) -> None:
    """`Reject` is a dead letter at once; `Discard` an acknowledgement that is counted."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise Reject("not ours") if job == "reject" else Discard("seen before")

    async with bus.worker():
        await send(bus, JOBS, "reject", "discard")
        await until(lambda: not bench.ids(JOBS))
    info = bench.letters(JOBS)["reject"]
    assert (info.reason, info.error_message, info.attempts) == ("rejected", "not ours", 1)
    assert list(bench.letters(JOBS)) == ["reject"]
    assert bus.statistics()["jobs"]["discarded"] == 1


async def test_poison_does_not_stop_its_neighbours(bench: Bench) -> None:
    """As many poisoned messages as there are slots, and all others are handled."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=10, delay_s=5))

    @bus.handle(JOBS, concurrency=2, prefetch=2)
    async def handle(job: str) -> None:
        if job.startswith("bad"):
            raise ValueError
        seen.append(job)

    async with bus.worker():
        await send(bus, JOBS, *[f"bad{number}" for number in range(6)], *[str(number) for number in range(6)])
        await until(lambda: len(seen) == 6)
        assert now() < 5
        await until(lambda: len(bench.letters(JOBS)) == 6, deadline_s=3000)


async def test_subscriptions_fail_alone(bench: Bench) -> None:
    """A failure, its retries and its dead letter in one subscription never reach another."""
    topic = Topic("events", str)
    one, two = topic.subscription("one"), topic.subscription("two")
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=1))

    @bus.handle(one)
    async def fails(event: str) -> None:
        raise ValueError

    @bus.handle(two)
    async def works(event: str) -> None:
        seen.append(event)

    async with bus.worker():
        await bus.publish(topic, "e", id="e")
        await until(lambda: bench.letters(one))
        await quiet()
    assert seen == ["e"]
    assert bench.letters(two) == {}


async def test_a_handler_of_dead_letters_sees_why_and_takes_them(bench: Bench) -> None:
    """Dead letters are a source: what its handler takes is gone from there."""
    seen: list[Message] = []
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError("why")

    @bus.handle(JOBS.dead_letters)
    async def bury(letter: Message, ctx: Context) -> None:
        seen.append(letter)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: seen)
        await until(lambda: not bench.ids(JOBS.dead_letters))
    (letter,) = seen
    assert letter.dead is not None
    assert (letter.id, letter.body, letter.dead.reason, letter.dead.error_message) == ("a", b"a", "attempts", "why")


async def test_a_handler_of_dead_letters_retries_in_place_and_never_loses_the_letter(bench: Bench) -> None:
    """When it has used up its attempts it pauses and begins anew; nothing is dead-lettered from there."""
    seen: list[tuple[int, float]] = []
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError

    @bus.handle(JOBS.dead_letters, retry=Retry(max_attempts=3, delay_s=5, factor=1, jitter=0))
    async def bury(letter: Message, ctx: Context) -> None:
        seen.append((ctx.attempt, round(now(), 3)))
        if len(seen) < 6:
            raise ValueError
        if len(seen) == 6:
            raise Reject("as well")

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: len(seen) == 7, deadline_s=3000)
        await until(lambda: not bench.ids(JOBS.dead_letters))
        assert worker.statistics()["jobs!dead"]["dead_lettered"] == 0
    assert [attempt for attempt, _ in seen] == [1, 2, 3, 1, 2, 3, 1]
    times = [at for _, at in seen]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([5, 5, 60, 5, 5, 60], abs=0.01)
    assert bench.faults.settlements(DeadLetter) == ["a"]
    assert bench.faults.settlements(Ack) == ["a"]


async def test_a_letter_whose_handler_pauses_or_is_cut_short_stays(bench: Bench) -> None:
    """A drain gives it back as it was, with its record."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError

    @bus.handle(JOBS.dead_letters)
    async def bury(letter: Message) -> None:
        raise PauseSource(1e5) if letter.id == "pause" else ValueError

    async with bus.worker():
        await send(bus, JOBS, "fail", "pause")
        await quiet(5)
    letters = bench.letters(JOBS)
    assert sorted(letters) == ["fail", "pause"]
    assert {info.reason for info in letters.values()} == {"attempts"}
