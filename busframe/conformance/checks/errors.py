"""P: every failure is an error of busframe's own, of the right class."""

from collections.abc import Awaitable, Callable
from typing import Any

from busframe.bus import Bus
from busframe.conformance.addresses import stranger, unreachable
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.errors import (
    AccessDenied,
    BusframeError,
    ClosedError,
    ConnectionFailed,
    DestinationNotFound,
    MessageTooLarge,
    Unsupported,
)
from busframe.model.delivery import Outgoing
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE


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


@check("P1", "what is missing, too large, unreachable or forbidden raises its class, and says whether waiting helps")
async def classes(world: World) -> None:
    """Bad passwords and closed ports where the broker has a URL."""
    claims = await world.capabilities()
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
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
    if claims.max_message_bytes is not None:
        (outcome,) = await world.try_publish(transport, queue, world.message(b"x" * (claims.max_message_bytes + 1)))
        of_class("a message over the limit", outcome, MessageTooLarge)
    await world.publish(transport, queue, world.message())
    if (url := unreachable(world.harness)) is not None:
        error = await opening(url)
        of_class("a port where nothing listens", error, ConnectionFailed)
        if isinstance(error, ConnectionFailed) and not error.transient:
            raise Violation(f"a server that is not there may come, and the error says that waiting is no use: {error}")
    if (url := stranger(world.harness)) is not None and (error := await opening(url)) is not None:
        of_class("a wrong password", error, AccessDenied)
        if isinstance(error, AccessDenied) and error.transient:
            raise Violation(f"a password does not become right by waiting, and the error says so: {error}")
    await world.drain(await world.receiver(transport, queue), 1)
    world.balanced()


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
