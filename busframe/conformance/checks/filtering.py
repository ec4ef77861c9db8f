"""V: which messages a subscription's filter lets through, and what becomes of them when it changes."""

from collections import defaultdict
from collections.abc import Mapping

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.model.destination import Subscription, Where

GOLD = {"tier": "gold"}
EU, US, AP = {"region": "eu"}, {"region": "us"}, {"region": "ap"}


@check("V15", "a filter takes exactly what matches; a changed one never delivers what the new one excludes")
async def filters(world: World) -> None:
    """One value, several values, several names; then the first one is changed while nobody consumes and one waits."""
    topic = world.topic(str)
    wanted: dict[str, Where] = {
        "one": EU,
        "several": {"region": ["eu", "us"]},
        "names": {"region": ["eu", "us"], **GOLD},
        "all": {},
    }
    sent: list[tuple[Mapping[str, str], set[str]]] = [
        (EU, {"one", "several", "all"}),
        (US, {"several", "all"}),
        (AP | GOLD, {"all"}),
        (EU | GOLD | {"other": "x"}, {"one", "several", "names", "all"}),
        (US | GOLD, {"several", "names", "all"}),
        (GOLD, {"all"}),
        ({"region": "EU"}, {"all"}),
        ({}, {"all"}),
    ]
    got: dict[str, list[str]] = defaultdict(list)

    async def work(body: str, ctx: Context) -> None:
        got[ctx.handler].append(body)
        world.handled(ctx)

    def worker_of(subscriptions: Mapping[str, Subscription[str]]) -> Bus:
        bus = world.bus()
        for name, subscription in subscriptions.items():
            bus.handle(subscription, name=name)(work)
        return bus

    subscriptions = {name: topic.subscription(name, where=where) for name, where in wanted.items()}
    bus = worker_of(subscriptions)
    async with bus.worker() as worker:
        for number, (headers, _) in enumerate(sent):
            await world.send(bus, topic, f"{number} {dict(headers)}", headers=headers)
        total = sum(len(takers) for _, takers in sent)
        await world.until(lambda: len(world.history.handled) >= total, f"{total} deliveries", within_s=10)
        await worker.wait_idle(0.25)
    for name in wanted:
        expected = sorted(f"{n} {dict(headers)}" for n, (headers, takers) in enumerate(sent) if name in takers)
        if sorted(got[name]) != expected:
            raise Violation(f"where={wanted[name]} took {sorted(got[name])}, not {expected}")
    world.balanced(duplicates=len(sent))

    async with bus:
        await bus.publish(topic, "waits", headers=EU)  # the old filter takes it, and the new one decides
    changed = worker_of({"one": topic.subscription("one", where=US)})
    got.clear()
    async with changed.worker() as worker:
        for number, headers in enumerate((EU, US, EU | GOLD, US | GOLD)):
            await changed.publish(topic, f"{number} {dict(headers)}", headers=headers)
        await world.until(lambda: len(got["one"]) >= 2, "the changed filter takes two", within_s=10)
        await worker.wait_idle(0.25)
    expected = [f"1 {US}", f"3 {US | GOLD}"]
    if sorted(got["one"]) != expected:
        raise Violation(f"the filter, changed from {EU} to {US}, took {sorted(got['one'])}, not {expected}")


@check("V24", "a filter is widened while an old worker runs: nothing that the new one takes is lost")
async def widened(world: World) -> None:
    """The old worker, with its own narrower filter, is the only one that consumes for a while.

    With few values, and with more than a broker may like to hold.
    """
    await _widen(world, ["eu"], "us")
    await _widen(world, ["eu", *(f"r{number}" for number in range(40))], "us")


async def _widen(world: World, values: list[str], more: str) -> None:
    topic = world.topic(str)
    narrow, wide = (topic.subscription("s", where={"region": each}) for each in (values, [*values, more]))
    old, new = world.bus(), world.bus()

    async def work(body: str, ctx: Context) -> None:
        world.handled(ctx)

    old.handle(narrow)(work)
    new.handle(wide)(work)

    async def accounted() -> bool:
        set_aside = {letter.message.id async for letter in new.dead_letters(wide).list() if _filtered(letter.message)}
        handled = {id for id, _ in world.history.handled}
        missing[:] = [id for id in world.history.confirmed if id not in handled | set_aside]
        return not missing

    missing: list[str] = []
    async with old.worker():
        await world.send(old, topic, "before", headers=EU)
        async with new:
            for n in range(6):
                await world.send(new, topic, f"{n}", headers={"region": more} if n % 2 else EU)
            try:
                await world.until(accounted, "all are handled, or set aside as filtered", within_s=10)
            except Violation as late:
                raise Violation(f"lost to an old worker's filter: {len(missing)} messages; {late}") from late
    async with new.worker():
        await new.dead_letters(wide).replay([letter async for letter in new.dead_letters(wide).list()])
        await world.send(new, topic, "after", headers={"region": more})
        await world.until(
            lambda: len({id for id, _ in world.history.handled}) == len(world.history.confirmed), "all are handled"
        )
    world.balanced()


def _filtered(message: object) -> bool:
    dead = getattr(message, "dead", None)
    return dead is not None and dead.reason == "filtered"
