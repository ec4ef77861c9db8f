"""That the runtime decodes to what a signature says: the two are written apart."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel
from typing_extensions import TypedDict

from busframe import Bus, Message, Queue, Topic


class Left(BaseModel):
    gate: int


class Landed(BaseModel):
    gate: int


class Delay(TypedDict):
    minutes: int


def later(left: Left) -> Left:
    """Validates by changing."""
    return Left(gate=left.gate + 100)


async def run(bus: Bus, *published: tuple[Any, Any]) -> None:
    """Publish and wait until all is handled."""
    async with bus.worker() as worker:
        for to, body in published:
            await bus.publish(to, body)
        await worker.wait_idle(0.01)


async def test_each_type_reaches_its_handler_as_its_annotation_says() -> None:
    """Models, builtins and typed dictionaries of one topic, each by a handler of its own."""
    bus = Bus("memory://")
    seen: list[Any] = []
    board = Topic("board", Left, Landed, str, Delay)
    screen = board.subscription("screen")

    @bus.handle(screen, only=Left)
    async def left(body: Annotated[Left, AfterValidator(later)]) -> None:
        seen.append(body)

    @bus.handle(screen, only=Landed)  # type: ignore[arg-type]  # type checkers want the class, or Message
    async def landed(body: dict[str, Any]) -> None:
        seen.append(body)

    @bus.handle(screen, only=str)
    def announced(body: str) -> None:
        seen.append(body)

    @bus.handle(screen, only=Delay)
    async def delayed(body: Delay) -> None:
        seen.append(body)

    await run(bus, (board, Left(gate=1)), (board, Landed(gate=2)), (board, "boarding"), (board, {"minutes": 5}))
    assert sorted(map(repr, seen)) == sorted(map(repr, ["boarding", {"gate": 2}, {"minutes": 5}, Left(gate=101)]))


async def test_a_union_with_a_builtin_gets_the_rest_undecided() -> None:
    """What has the union's type is the model, and everything else is the builtin."""
    bus = Bus("memory://")
    seen: list[Any] = []
    loose: Queue[Any] = Queue("loose")
    raw: Queue[Any] = Queue("raw")

    @bus.handle(loose)
    async def either(body: Left | dict[str, Any]) -> None:
        seen.append(body)

    @bus.handle(raw)
    async def raw_or_left(body: Left | bytes) -> None:
        seen.append(body)

    await run(bus, (loose, Left(gate=1)), (loose, Landed(gate=2)), (loose, {"gate": 3}), (raw, Landed(gate=4)))
    assert sorted(map(repr, seen)) == sorted(map(repr, [b'{"gate":4}', {"gate": 2}, {"gate": 3}, Left(gate=1)]))


async def test_a_union_of_what_is_declared_takes_text_as_text() -> None:
    """Text beside a model is text, though it may look like JSON."""
    bus = Bus("memory://")
    seen: list[Any] = []
    mixed = Queue("mixed", Left, str)

    @bus.handle(mixed)
    async def either(body: Left | str) -> None:
        seen.append(body)

    await run(bus, (mixed, Left(gate=1)), (mixed, '{"gate": 2}'))
    assert sorted(map(repr, seen)) == sorted(map(repr, ['{"gate": 2}', Left(gate=1)]))


async def test_any_gets_what_was_sent() -> None:
    """A handler of anything gets text as text, bytes as bytes and JSON as what it says."""
    bus = Bus("memory://")
    seen: list[Any] = []
    loose: Queue[Any] = Queue("loose")

    @bus.handle(loose)
    async def anything(body: Any) -> None:
        seen.append(body)

    await run(bus, *((loose, body) for body in ("7", b"7", 7, None, {"a": 1}, Left(gate=1))))
    assert sorted(map(repr, seen)) == sorted(map(repr, ["7", b"7", 7, None, {"a": 1}, {"gate": 1}]))


async def test_a_class_that_cannot_be_decoded_ends_in_dead_letters() -> None:
    """A mistake that only the first message shows holds up nothing."""

    class Plain: ...

    bus = Bus("memory://")
    dead: list[str] = []
    loose: Queue[Any] = Queue("loose")

    @bus.handle(loose)
    async def impossible(body: Plain) -> None: ...

    @bus.handle(loose.dead_letters)
    async def report(message: Message) -> None:
        assert message.dead is not None
        dead.append(message.dead.reason)

    await run(bus, (loose, {"a": 1}))
    assert dead == ["undecodable"]
