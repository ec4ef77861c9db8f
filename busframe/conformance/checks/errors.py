"""P: every failure is an error of busframe's own, of the right class."""

from collections.abc import Awaitable, Callable
from typing import Any

from busframe.bus import Bus
from busframe.conformance.addresses import unreachable
from busframe.conformance.check import Violation, check
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import World
from busframe.errors import (
    AccessDenied,
    Backpressure,
    BusframeError,
    ClosedError,
    ConnectionFailed,
    DestinationNotFound,
    MessageTooLarge,
    PublishFailed,
    Unsupported,
)
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE
from busframe.spi.transport import Transport


async def error_of(call: Awaitable[object]) -> Exception | None:
    """What a call raises."""
    try:
        await call
    except Exception as error:
        return error
    return None


def of_class(what: str, error: Exception | None, *kinds: type[Exception]) -> None:
    """Demand that an error is of one of these classes."""
    if not isinstance(error, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise Violation(f"{what}: {names} was expected, not {error!r}")


async def opening(url: str) -> Exception | None:
    """What opening a bus at a URL raises, tried once."""

    async def opened() -> None:
        async with Bus(url, config={"connect_timeout_s": 0}):
            pass

    return await error_of(opened())


@check(
    "P1",
    "bad password, unreachable, missing, forbidden, too large, full: each raises its class, and says if waiting helps",
)
async def classes(world: World) -> None:
    """Parts of it need a server, its users, or a source that can be full."""
    claims = await world.capabilities()
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await _missing(world, transport)
    if claims.max_message_bytes is not None:
        (outcome,) = await world.try_publish(transport, queue, world.message(b"x" * (claims.max_message_bytes + 1)))
        of_class("a message over the limit", outcome, MessageTooLarge)
    await world.publish(transport, queue, world.message())
    with world.part("a port where nothing listens"):
        if (url := unreachable(world.harness)) is None:
            raise NotRunnable(f"{world.harness.name} is no server")
        _waiting_helps("a port where nothing listens", await opening(url), ConnectionFailed, True)
    with world.part("a wrong password"):
        url = world.harness.url_with_bad_password()
        _waiting_helps("a wrong password", await opening(url), AccessDenied, False)
    with world.part("a user without rights"):
        await _forbidden(world, transport, queue)
    with world.part("a source that is full"):
        await _full(world, transport)
    await world.drain(await world.receiver(transport, queue), 1)
    world.balanced()


def _waiting_helps(what: str, error: Exception | None, kind: type[Exception], helps: bool) -> None:
    of_class(what, error, kind)
    if getattr(error, "transient", helps) is not helps:
        raise Violation(f"{what}: waiting {'may help' if helps else 'is no use'}, and the error denies it: {error!r}")


async def _missing(world: World, transport: Transport) -> None:
    absent = world.queue()
    missing: dict[str, Callable[[], Awaitable[object]]] = {
        "a receiver of what is not there": transport.receiver(Entity(absent, ordering="none"), prefetch=1).open,
        "browse of what is not there": lambda: transport.browse(absent.dead_letters),
        "purge of what is not there": lambda: transport.purge(absent.dead_letters),
    }
    for what, call in missing.items():
        of_class(what, await error_of(call()), DestinationNotFound)
    (outcome,) = await world.try_publish(transport, absent, world.message())
    of_class("a publish to what is not there", outcome, DestinationNotFound)
    if not isinstance(outcome, DestinationNotFound) or outcome.destination != str(absent):
        raise Violation(f"{absent} is not there, and the error names another destination: {outcome!r}")


async def _forbidden(world: World, transport: Transport, queue: Queue[Any]) -> None:
    """Whatever a user without any right tries with a queue, and with one that is missing; all stays as it is."""
    absent, letters = world.queue(), queue.dead_letters
    await transport.publish([Outgoing(letters, world.message())], timeout_s=10.0)
    async with world.client(await world.harness.native_user(may_use=False)) as stranger:
        forbidden: dict[str, Callable[[], Awaitable[object]]] = {
            "consuming without the right": stranger.receiver(Entity(queue, ordering="none"), prefetch=1).open,
            "declaring without the right": lambda: world.declare(stranger, absent),
            "browsing without the right": lambda: stranger.browse(letters),
            "purging without the right": lambda: stranger.purge(letters),
        }
        for what, call in forbidden.items():
            _waiting_helps(what, await error_of(call()), AccessDenied, False)
        (outcome,) = await world.try_publish(stranger, queue, world.message())
        _waiting_helps("publishing without the right", outcome, PublishFailed, False)
    if await world.harness.native_exists(absent, world.name(absent)):
        raise Violation("a user without rights made a queue")
    await world.dead(transport, queue, 1)


FULL = 1000
"""The most messages that a source can take which is to be full after a few."""


async def _full(world: World, transport: Transport) -> None:
    """It refuses for now, loses nothing of what it took, and takes more when there is room."""
    full = world.queue()
    await world.harness.native_full(full, world.name(full))
    outcome: Exception | None = None
    for _ in range(FULL):
        (outcome,) = await world.try_publish(transport, full, world.message())
        if outcome is not None:
            break
    _waiting_helps("a publish to what is full", outcome, Backpressure, True)
    receiver = await world.receiver(transport, full, prefetch=FULL)
    await world.drain(receiver, len(world.history.confirmed) - 1)  # one is in another queue

    async def room() -> bool:
        return (await world.try_publish(transport, full, world.message()))[0] is None

    await world.until(room, "a publish to what was full, and is empty")
    await world.drain(receiver, 1)


@check("P2", "no error of a client library escapes: it is the cause; and the native client can be had by its type")
async def none_escapes(world: World) -> None:
    """Whatever is done wrong."""
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, world.message())
    receiver = await world.receiver(transport, queue)
    (delivery,) = await world.take(receiver, 1)
    found: dict[str, Exception | None] = {}
    (found["publishing to what is not there"],) = await world.try_publish(transport, absent, world.message())
    (found["a topic that is a queue"],) = await transport.publish(
        [Outgoing(world.topic(), world.message())], timeout_s=5
    )
    await world.settle(receiver, [delivery])
    (found["settling twice"],) = await receiver.settle([(delivery, RELEASE)])
    found["consuming what is not there"] = await error_of(
        transport.receiver(Entity(absent, ordering="none"), prefetch=1).open()
    )
    found["removing nonsense"] = await error_of(transport.remove(queue.dead_letters, ["nonsense", "", "9" * 30]))
    found["browsing from nonsense"] = await error_of(transport.browse(queue.dead_letters, after="nonsense"))
    found["browsing what is not there"] = await error_of(transport.browse(absent.dead_letters))
    found["statistics of what is not there"] = await error_of(transport.stats(absent))
    await receiver.close()
    try:
        (found["settling after close"],) = await receiver.settle([(delivery, ACK)])
    except Exception as error:
        found["settling after close"] = error
    found["receiving after close"] = await error_of(receiver.receive(1))
    of_class("receiving after close", found["receiving after close"], ClosedError)
    if (url := unreachable(world.harness)) is not None:
        refused = found["a port where nothing listens"] = await opening(url)
        if refused is not None and refused.__cause__ is None:
            raise Violation(f"what the client library said of a port where nothing listens is lost: {refused!r}")
    for what, ended in found.items():
        if ended is not None and not isinstance(ended, BusframeError):
            raise Violation(f"{what}: an error escaped that is not busframe's: {ended!r}")
    async with world.bus(uses=[queue]) as bus:
        await _native(bus)


async def _native(bus: Bus) -> None:
    try:
        native: Any = bus.native(object)
    except Unsupported:
        native = None
    if native is None:
        raise Violation("the native client cannot be had: what is not portable is out of reach")
    if bus.native(type(native)) is None:
        raise Violation("the native client is None")
    try:
        got = bus.native(_Nobodys)
    except Unsupported:
        return
    raise Violation(f"a native client of another type was asked for, and {got!r} given")


class _Nobodys:
    """No client library has it."""
