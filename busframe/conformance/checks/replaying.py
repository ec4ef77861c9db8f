"""V: dead letters are looked at, sent back, and handled again."""

from collections import Counter
from typing import TYPE_CHECKING

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as
from busframe.errors import DestinationNotFound
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.logic.retry import Retry

if TYPE_CHECKING:
    from busframe.bus.dead_letters import DeadLetterRecord

ONCE = Retry(max_attempts=1)


@check(
    "V14",
    "looking at dead letters removes none; a replay is confirmed, then removed, keeps the id, is counted; others stay",
)
async def replay(world: World) -> None:
    """Replays that fail, that end as letters again, and that are handled; of the newest, and from the middle."""
    await _replayed(world)
    await _one_by_one(world)


async def _replayed(world: World) -> None:
    queue, absent = world.queue(str), world.queue(str)
    bus = world.bus()
    healed = False
    attempts: dict[str, int] = {}

    @bus.handle(queue, retry=ONCE)
    async def work(body: str, ctx: Context) -> None:
        if not healed:
            raise ValueError("not healed")
        attempts[ctx.message.id] = ctx.attempt
        world.handled(ctx)

    async with bus.worker():
        sent = await world.send(bus, queue, "1", "2", "3")
        ids = {message.id for message in sent}
        box = bus.dead_letters(queue)
        letters: list[DeadLetterRecord] = []
        for _ in range(2):
            letters = await world.letters(bus, queue, 3)
            _same(ids, [letter.message.id for letter in letters], "the dead letters")

        try:
            await box.replay(letters, to=absent)
        except Exception as error:
            failed_as(error, DestinationNotFound)
        else:
            raise Violation("a replay to what does not exist was confirmed")
        letters = await world.letters(bus, queue, 3)

        again = letters[0].message.id
        await box.replay(letters[:1])

        async def counted() -> bool:
            return again in [
                letter.message.id async for letter in box.list() if letter.message.dead and letter.message.dead.replays
            ]

        await world.until(counted, "the one that failed again says how often it was replayed", within_s=5)
        letters = await world.letters(bus, queue, 3)
        _same(ids, [letter.message.id for letter in letters], "the dead letters after a replay that failed again")
        replays = sorted(letter.message.dead.replays for letter in letters if letter.message.dead)
        if replays != [0, 0, 1]:
            raise Violation(f"one was replayed once, and the counts of replays are {replays}")

        healed = True
        count = await box.replay(letters)
        if count != 3:
            raise Violation(f"three were replayed, and the replay says {count}")
        await world.until(lambda: len(world.history.handled) >= 3, "the replayed ones are handled")
        _same(ids, [id for id, _ in world.history.handled], "the handled ones")
        if set(attempts.values()) != {1}:
            raise Violation(f"a replay begins at attempt 1, and the attempts were {sorted(attempts.values())}")
        await world.letters(bus, queue, 0)
    world.balanced()


async def _one_by_one(world: World) -> None:
    """Whichever letter goes, the others stay as they were: their order, positions, bytes and records."""
    queue, handled = world.queue(str), list[str]()
    bus = world.bus()

    @bus.handle(queue, concurrency=1, retry=ONCE)
    async def work(body: str, ctx: Context) -> None:
        if ctx.message.id not in healed:
            raise ValueError("not healed")
        handled.append(body)

    healed = set[str]()
    async with bus.worker():
        for n in range(6):
            await bus.publish(queue, f"{n}", headers={"n": f"{n}"})
        letters = await world.letters(bus, queue, 6)
        healed = {letter.message.id for letter in letters}
        box = bus.dead_letters(queue)
        for verb, place, which in (
            (box.purge, -1, "the newest was purged"),
            (box.replay, -1, "the newest was replayed"),
            (box.replay, 1, "one from the middle was replayed"),
            (box.purge, 1, "one from the middle was purged"),
        ):
            if (count := await verb([letters.pop(place)])) != 1:
                raise Violation(f"{which}, and the count is {count}")
            left = await world.letters(bus, queue, len(letters))
            if left != letters:
                raise Violation(f"{which}, and the others were {_shown(letters)} and are {_shown(left)}")
        await world.until(lambda: len(handled) == 2, "two replayed letters are handled")


def _shown(letters: "list[DeadLetterRecord]") -> list[str]:
    return [f"{letter.position} {letter.message!r}" for letter in letters]


def _same(expected: set[str], found: list[str], what: str) -> None:
    if Counter(found) != Counter(expected):
        raise Violation(f"{what} have the ids {sorted(found)}, not {sorted(expected)}")


async def replay_without_a_window(world: World) -> None:
    """Where writes are not compared, a replay is stored all the same."""
    await _replayed_at_once(world, window=False)


@check(
    "V17",
    "a replay inside the de-duplication window is stored and handled",
    tier="K",
    claimed=lambda claims: claims.dedup_window_s > 0,
    unclaimed=replay_without_a_window,
)
async def replay_inside_the_window(world: World) -> None:
    """The second write of the id is taken for a duplicate; the replay of the message is not, nor is the next one."""
    await _replayed_at_once(world, window=True)


async def _replayed_at_once(world: World, *, window: bool) -> None:
    queue = world.queue(str)
    bus = world.bus()
    runs: list[str] = []

    @bus.handle(queue, retry=ONCE)
    async def work(body: str, ctx: Context) -> None:
        runs.append(ctx.message.id)
        if len(runs) < 3:
            raise ValueError("not healed")
        world.handled(ctx)

    async with bus:
        (sent,) = await world.send(bus, queue, "1")
        if window:
            await bus.publish(queue, "1", id=sent.id)
        async with bus.worker():
            for replays in range(2):
                letters = await world.letters(bus, queue, 1)
                if len(runs) != replays + 1:
                    raise Violation(f"a second write of one id inside the window was stored: it ran {len(runs)} times")
                await bus.dead_letters(queue).replay(letters)
                await world.until(
                    lambda expected=replays + 2: len(runs) >= expected,  # type: ignore[misc]
                    f"replay {replays + 1} is stored and handled",
                )
            await world.until(lambda: world.history.handled, "the last replay is handled")
            await world.letters(bus, queue, 0)
    world.balanced()


@check("V21", "listing dead letters 50 times loses nothing")
async def listing(world: World) -> None:
    """Each list is whole, and in the end all are there to be handled."""
    queue, count = world.queue(str), 5
    bus = world.bus()
    healed = False

    @bus.handle(queue, retry=ONCE)
    async def work(body: str, ctx: Context) -> None:
        if not healed:
            raise ValueError("not healed")
        world.handled(ctx)

    async with bus.worker():
        ids = {message.id for message in await world.send(bus, queue, *(f"{n}" for n in range(count)))}
        await world.letters(bus, queue, count)
        for time in range(50):
            found = [letter.message.id async for letter in bus.dead_letters(queue).list()]
            _same(ids, found, f"in list {time + 1} the dead letters")
        healed = True
        await bus.dead_letters(queue).replay(await world.letters(bus, queue, count))
        await world.until(lambda: len(world.history.handled) == count, "all are handled after a replay")
    world.balanced()


@check("V23", "a replay of one subscription reaches that subscription alone")
async def replay_of_one(world: World) -> None:
    """Both have given the message up; one of them gets it again."""
    topic = world.topic(str)
    mine, other = topic.subscription("mine"), topic.subscription("other")
    bus = world.bus()
    runs: Counter[str] = Counter()

    @bus.handle(mine, name="mine")
    async def work(body: str, ctx: Context) -> None:
        runs["mine"] += 1
        if runs["mine"] == 1:
            raise Reject("not healed")
        world.handled(ctx)

    @bus.handle(other, name="other")
    async def reject(body: str, ctx: Context) -> None:
        runs["other"] += 1
        raise Reject("never")

    async with bus.worker() as worker:
        await world.send(bus, topic, "1")
        letters = await world.letters(bus, mine, 1)
        await world.letters(bus, other, 1)
        await bus.dead_letters(mine).replay(letters)
        await world.until(lambda: runs["mine"] >= 2, "the replayed one is handled by its subscription")
        await worker.wait_idle(0.25)
        if runs["other"] != 1:
            raise Violation(f"the replay reached another subscription: handlers ran {dict(runs)}")
        await world.letters(bus, mine, 0)
        await world.letters(bus, other, 1)
    world.balanced()
