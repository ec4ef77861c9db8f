"""B: what arrives is what was sent, to the byte."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as
from busframe.errors import InvalidHeader, MessageTooLarge
from busframe.handling.context import Context
from busframe.logic.dead_letter import broker_made
from busframe.logic.retry import Retry
from busframe.logic.size import message_bytes
from busframe.logic.wire import format_time
from busframe.model.message import Message
from busframe.model.settlement import RELEASE, DeadLetter, Nack


def same(sent: Message, got: Message, when: str = "") -> None:
    """Demand that a message is the one that was sent, in every field but why it is dead."""
    for name in (field.name for field in fields(Message) if field.name != "dead"):
        before, after = getattr(sent, name), getattr(got, name)
        if before != after:
            raise Violation(f"{name} was {_short(before)} and arrived{when} as {_short(after)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:120]}… ({len(text)} characters)"


async def travel(world: World, *messages: Message) -> None:
    """Demand that messages come out of a queue as they went in."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *messages)
    receiver = await world.receiver(transport, queue, prefetch=50)
    got = {delivery.message.id: delivery.message for delivery in await world.drain(receiver, len(messages))}
    for sent in messages:
        if sent.id not in got:
            raise Violation(f"message {sent.id} came under another id")
        same(sent, got[sent.id])
    world.balanced()


@check("B1", "an empty body arrives empty")
async def empty_body(world: World) -> None:
    """Not as null, and not as nothing."""
    await travel(
        world, world.message(b""), world.message(b"", content_type=None), world.message(b"", headers={"a": "b"})
    )


@check("B2", "all byte values, invalid UTF-8 and what looks like JSON arrive unchanged")
async def any_bytes(world: World) -> None:
    """Whatever the content type says."""
    bodies = [
        bytes(range(256)),
        b"\xff\xfe\x00\xd8",  # a lone surrogate, and no UTF-8
        b"\xc3\x28",
        b' {"b": 1,  "a": 1e2}\r\n',
        b'"text"',
        b"null",
        b"\x00",
        "ä€\N{GRINNING FACE}".encode(),
        "ä€".encode("utf-16"),
    ]
    kinds = ("application/json", "text/plain; charset=utf-8", "application/octet-stream", None)
    await travel(world, *(world.message(body, content_type=kind) for body in bodies for kind in kinds))


@check(
    "B3", "1 byte, 64 KiB, the maximum and one below arrive; one above raises MessageTooLarge, and the client goes on"
)
async def sizes(world: World) -> None:
    """The maximum is what the transport claims, for the body and the application's headers together."""
    limit = (await world.capabilities()).max_message_bytes
    headers = {"header": "value"}
    extra = sum(len(name) + len(value) for name, value in headers.items())
    lengths = [1, 64 * 1024] + ([limit - extra - 1, limit - extra] if limit is not None else [1024 * 1024])
    await travel(world, *(world.message(_noise(length), headers=headers) for length in lengths))
    if limit is None:
        return
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    large = world.message(_noise(limit - extra + 1), headers=headers)
    assert message_bytes(large) == limit + 1
    beside = [world.message(), large, world.message()]
    outcomes = await world.try_publish(transport, queue, *beside)
    failed_as(outcomes[1], MessageTooLarge)
    if any(outcome is not None for outcome in (outcomes[0], outcomes[2])):
        raise Violation(f"messages beside one that is too large ended as {outcomes[0]!r} and {outcomes[2]!r}")
    await world.publish(transport, queue, world.message())
    await world.drain(await world.receiver(transport, queue), 3)
    world.balanced()


def _noise(length: int) -> bytes:
    pattern = bytes(range(251))  # a prime, so that nothing that is moved by a block looks right
    return (pattern * (length // len(pattern) + 1))[:length]


async def headers_travel(world: World, travels: Sequence[Any], refused: Sequence[Any]) -> None:
    """Demand that headers arrive as they are, or are refused by the publish: nothing in between."""
    queue = world.queue()
    transport = await world.open_client()
    async with world.bus(uses=[queue]) as bus:
        sent = [(await world.send(bus, queue, b"", headers=headers))[0] for headers in travels]
        for headers in refused:
            try:
                await bus.publish(queue, b"", headers=headers)
            except InvalidHeader:
                continue
            raise Violation(f"InvalidHeader was expected for {_short(headers)}, and it was published")
        sent += await world.send(bus, queue, b"the client goes on")
    receiver = await world.receiver(transport, queue, prefetch=50)
    got = {delivery.message.id: delivery.message.headers for delivery in await world.drain(receiver, len(sent))}
    for message, headers in zip(sent, [*travels, {}], strict=True):
        wanted = {} if headers is None else headers
        if dict(got.get(message.id, {})) != wanted or not isinstance(got[message.id], Mapping):
            raise Violation(f"headers were {_short(headers)} and arrived as {_short(got.get(message.id))}")
    world.balanced()


@check("B4", "no headers and 64 arrive; None and {} are the same; 65 are InvalidHeader")
async def number_of_headers(world: World) -> None:
    """What is there where nothing was said is an empty mapping."""
    many = {f"header-{n}": f"value {n}" for n in range(65)}
    fifty = dict(list(many.items())[:50])
    most = dict(list(many.items())[:64])
    await headers_travel(world, [None, {}, {"one": "1"}, fifty, most], [many])


@check("B5", "a header's value arrives as it is, or is InvalidHeader at publish")
async def header_values(world: World) -> None:
    """Text without control characters and edge white space, up to 8 KiB, travels; nothing is tidied up."""
    travels = [
        "",
        "ä€\N{GRINNING FACE}",
        "e\N{COMBINING ACUTE ACCENT}",
        "a  b",
        '"quoted"',
        "'single', \"double\"; a=b",
        "\\n %0D%0A &amp; \\",
        '{"a": null}',
        "null",
        "true",
        "1.0",
        "x" * 8192,
        "ä" * 4096,
    ]
    refused = [" a", "a ", "\ta", "\N{NO-BREAK SPACE}a", "a\r\nb", "a\n", "\x00", "\x07", "\x7f", "a\x85b", "x" * 8193]
    other: list[object] = ["x" * 65536, "ä" * 4097, "\ud800", 7, None, True, b"a", ["a"]]
    await headers_travel(
        world, [{"value": value} for value in travels], [{"value": value} for value in (*refused, *other)]
    )


@check("B6", "a header's name keeps its case and arrives as it is, or is InvalidHeader; reserved ones are refused")
async def header_names(world: World) -> None:
    """ASCII letters, digits, '-', '_' and '.', up to 128."""
    travels = [
        {"Tenant": "1", "tenant": "2", "TENANT": "3"},
        {"x_Y-z.9": "v"},
        {"0": "v"},
        {"-": "v"},
        {"N" * 128: "v"},
    ]
    refused = ["", "a b", "ä", "a:b", "a\n", "a\r\nb: c", "x" * 129, "x" * 256, "bf-", "bf-id", "BF-Attempt"]
    brokers = ["x-death", "X-Delivery-Count", "Nats-Msg-Id", "x-opt-note", "CC"]
    other: list[Any] = [7, b"a", None]
    await headers_travel(world, travels, [{name: "v"} for name in (*refused, *brokers, *other)])


@check("B8", "what a broker adds to a message neither breaks it nor shows in its headers")
async def broker_headers(world: World) -> None:
    """After hand-backs, a delayed retry, a delayed publish and dead-lettering it is still the one that was sent."""
    claims = await world.capabilities()
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    receiver = await world.receiver(transport, queue)
    sent = everything_said(world)
    await world.publish(transport, queue, sent, delay_s=0.1 if claims.publish_delay_max_s else 0.0)
    (delivery,) = await world.take(receiver, 1)
    same(sent, delivery.message, " after a delay")
    for _ in range(2):
        await world.settle(receiver, [delivery], RELEASE)
        (delivery,) = await world.take(receiver, 1)
        same(sent, delivery.message, " after a hand-back")
    if claims.nack_delay_max_s:
        carried = {"bf-attempt": f"1 {queue}"}
        await world.settle(receiver, [delivery], Nack(0.1, carried))
        (delivery,) = await world.take(receiver, 1)
        same(sent, delivery.message, " after a retry")
        if dict(delivery.carried) != carried:
            raise Violation(f"it carried {carried} and came with {dict(delivery.carried)}")
    record = broker_made("rejected", str(queue), format_time(datetime.now(UTC)))
    await world.settle(receiver, [delivery], DeadLetter("rejected", carried=record))
    (letter,) = await world.dead(transport, queue, 1)
    same(sent, letter, " as a dead letter")
    own = {"x-opt-note": "n", "x-first-death-queue": "q"}
    await world.native_publish(queue, b"foreign", {"mine": "1", **own})
    (delivery,) = await world.drain(receiver, 1)
    if dict(delivery.message.headers) != {"mine": "1"}:
        raise Violation(f"a broker's own headers show: {dict(delivery.message.headers)}")


@check("B10", "an undecodable message is dead-lettered at once as such, and its neighbours are handled")
async def undecodable(world: World) -> None:
    """No attempt, no loop, no blocked source."""
    queue = world.queue()
    bus, handled = world.bus(), list[int]()

    @bus.handle(queue, concurrency=1, retry=Retry(max_attempts=3, delay_s=0))
    async def handle(body: dict[str, int], ctx: Context) -> None:
        handled.append(body["n"])

    async with bus:
        transport = await world.open_client()
        await world.publish(transport, queue, world.message(b'{"n": '), world.message(b"{}", content_type="no/codec"))
        await world.native_publish(queue, b"\xff\x00")
        await world.publish(transport, queue, *(world.message(b'{"n": %d}' % n) for n in range(5)))
        async with bus.worker():

            def ended() -> bool:
                counts = bus.statistics()[str(queue)]
                if counts["received"] > 16:
                    raise Violation(f"8 messages were received {counts['received']} times: it goes in circles")
                return len(handled) >= 5 and counts["dead_lettered"] >= 3

            await world.until(ended, "three undecodable messages are dead-lettered, and five neighbours handled")
        letters = await world.letters(bus, queue, 3)
    reasons = [(letter.message.dead.reason, letter.message.dead.attempts) for letter in letters if letter.message.dead]
    if reasons != [("undecodable", 0)] * 3:
        raise Violation(f"dead letters had (reason, attempts) {reasons}, not three times ('undecodable', 0)")
    if sorted(handled) != list(range(5)):
        raise Violation(f"of five neighbours these were handled: {sorted(handled)}")


@check("B11", "a handler that changes what it was given does not change what is delivered again")
async def changed_by_handler(world: World) -> None:
    """Neither for a retry at once nor for a delayed one."""
    now, later = world.queue(), world.queue()
    bus, seen = world.bus(), dict[str, list[tuple[object, dict[str, str]]]]()

    async def handle(body: dict[str, list[int]], ctx: Context) -> None:
        attempts = seen.setdefault(str(ctx.source), [])
        attempts.append((copy.deepcopy(body), dict(ctx.message.headers)))
        body["list"].append(2)
        headers: Any = ctx.message.headers
        with suppress(TypeError):  # that they cannot be changed is the best answer
            headers["header"] = "changed"
        if len(attempts) < 2:
            raise RuntimeError("again")
        world.handled(ctx)

    bus.handle(now, name="now", retry=Retry(max_attempts=3, delay_s=0))(handle)
    bus.handle(later, name="later", retry=Retry(max_attempts=3, delay_s=0.1, jitter=0))(handle)
    async with bus.worker():
        for queue in (now, later):
            await world.send(bus, queue, {"list": [1]}, headers={"header": "value"})
        await world.until(lambda: len(world.history.handled) >= 2, "both messages are handled at the second attempt")
    for source, attempts in seen.items():
        if attempts != [({"list": [1]}, {"header": "value"})] * 2:
            raise Violation(f"the attempts of {source} saw {attempts}")
    world.balanced()


def everything_said(world: World) -> Message:
    """A message that says something in every field, each as long or odd as it may be."""
    return world.message(
        b"\x00 body",
        id=f"{world.run}-" + "i" * 60,
        type="shop.Order/v1+x",
        content_type="application/vnd.shop+json; charset=utf-8",
        headers={"Tenant": "ä", "x-trace": "00-ab-cd-01"},
        key="customer 4711 " + "k" * 114,
        correlation_id="c" * 127 + "~",
        reply_to="answers.a_b-c",
        published_at=datetime(2024, 2, 29, 23, 59, 59, 123457, tzinfo=UTC),
        ttl_s=86400.25,
    )


@check("B12", "type, key, correlation_id, reply_to, ttl_s and published_at survive")
async def all_fields(world: World) -> None:
    """Said or not said, to the microsecond."""
    nothing = world.message(b"", content_type=None, published_at=None)
    elsewhere = datetime(1999, 12, 31, 23, 0, 0, 1, tzinfo=UTC) + timedelta(days=1)
    await travel(world, everything_said(world), nothing, world.message(published_at=elsewhere, ttl_s=0.001))
