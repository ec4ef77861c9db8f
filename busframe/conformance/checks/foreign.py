"""B: messages that pass between busframe and other programs."""

from datetime import UTC, datetime

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.model.settlement import RELEASE

SOMETIME = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


@check("B7", "what a foreign program sent typed arrives as its canonical text, invalid UTF-8 with U+FFFD")
async def typed_headers(world: World) -> None:
    """A header is text for every handler, and no foreign value is an exception."""
    typed: dict[str, tuple[object, str]] = {
        "text": ("ä", "ä"),
        "int": (42, "42"),
        "long": (2**40, "1099511627776"),
        "negative": (-1, "-1"),
        "yes": (True, "true"),
        "no": (False, "false"),
        "float": (1.5, "1.5"),
        "bytes": (b"ab", "ab"),
        "invalid": (b"\xff\xfea", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}a"),
        "time": (SOMETIME, "2024-01-02T03:04:05.000000Z"),
        "list": (["a", 1], "a, 1"),
        "nothing": (None, ""),
    }
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    receiver = await world.receiver(transport, queue)
    await world.native_publish(queue, b"x", {name: value for name, (value, _) in typed.items()})
    (delivery,) = await world.take(receiver, 1)
    headers = delivery.message.headers
    if "text" not in headers:
        raise Violation(f"the harness is wrong, or text is lost: of {sorted(typed)} only {sorted(headers)} came")
    for name, value in headers.items():
        if name not in typed or value != typed[name][1]:
            wanted = f"as {typed[name][1]!r}" if name in typed else "and was never sent"
            raise Violation(f"header {name} came as {value!r}, {wanted}")
    await world.settle(receiver, [delivery])
    world.watch(receiver)


@check("B9", "a foreign message without our headers, with nonsense or odd ones, is delivered with defaults")
async def foreign_message(world: World) -> None:
    """It has an id that stays, a handler takes it, and it counts as a first attempt."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    nonsense = {"bf-published-at": "yesterday", "bf-ttl": "never", "bf-attempt": "many", "bf-expires-at": "-", "a": "b"}
    await world.native_publish(queue, b'{"n": 1}')
    await world.native_publish(queue, b'{"n": 2}', nonsense)
    receiver = await world.receiver(transport, queue)
    ids: list[dict[bytes, str]] = []
    for _ in range(2):
        deliveries = await world.take(receiver, 2)
        ids.append({delivery.message.body: delivery.message.id for delivery in deliveries})
        for message in (delivery.message for delivery in deliveries):
            for field in ("type", "key", "correlation_id", "reply_to", "ttl_s", "dead"):
                if getattr(message, field) is not None:
                    raise Violation(f"{field} of a foreign message was {getattr(message, field)!r}, not None")
        await world.settle(receiver, deliveries, RELEASE)
    if ids[0] != ids[1] or len(set(ids[0].values())) != 2 or "" in ids[0].values():
        raise Violation(f"the ids of two foreign messages were {ids[0]}, and then {ids[1]}")
    await receiver.close()
    bus, got = world.bus(), dict[int, tuple[int, dict[str, str]]]()

    @bus.handle(queue)
    async def handle(body: dict[str, int], ctx: Context) -> None:
        got[body["n"]] = ctx.attempt, dict(ctx.message.headers)

    odd = {"a": "b", "list": ["c", 1], "number": 7, "yes": True, "bytes": b"\xff", "nothing": None, "time": SOMETIME}
    await world.native_publish(queue, b'{"n": 3}', odd)
    async with bus.worker():
        await world.until(lambda: len(got) == 3, "three foreign messages are handled")
    _, headers = odd_one = got.pop(3)
    if odd_one[0] != 1 or headers.get("a") != "b" or not headers.keys() <= odd.keys():
        raise Violation(f"a foreign message with {odd} was handled as (attempt, headers): {odd_one}")
    if got != {1: (1, {}), 2: (1, {"a": "b"})}:
        raise Violation(f"foreign messages were handled as (attempt, headers): {got}")


@check("B13", "the broker's own client reads ours, and we read what it sent")
async def native(world: World) -> None:
    """The body is the body and the application's headers are headers, for queues and subscriptions."""
    headers = {"Tenant": "a b", "x-trace": "1"}
    queue, subscription = world.queue(), world.topic().subscription("s")
    transport = await world.open_client()
    await world.declare(transport, queue, subscription)
    for source, to in ((queue, queue), (subscription, subscription.topic)):
        await world.publish(transport, to, world.message(b"\x00 ours", headers=headers, type="Order", key="k"))
        body, own = await world.native_read(source)
        if (body, dict(own)) != (b"\x00 ours", headers):
            raise Violation(f"ours was read natively from {source} as {body!r} with {dict(own)}")
        await world.native_publish(to, b"\x00 theirs", headers)
        receiver = await world.receiver(transport, source)
        (delivery,) = await world.drain(receiver, 1)
        if (delivery.message.body, dict(delivery.message.headers)) != (b"\x00 theirs", headers):
            message = delivery.message
            raise Violation(f"theirs came from {source} as {message.body!r} with {dict(message.headers)}")
