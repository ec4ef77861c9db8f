import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pytest
from pydantic import BaseModel, field_serializer
from typing_extensions import TypedDict

from busframe import DeadLetterInfo, Destination, Message, Queue, Topic, message_type
from busframe.codecs import Codecs
from busframe.errors import (
    ClosedError,
    ConnectionFailed,
    DestinationNotFound,
    EncodeFailed,
    InvalidHeader,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.handling import outlet as module
from busframe.handling.publisher import Publisher
from busframe.logic.expiry import expires_at
from busframe.model.delivery import Outgoing
from tests.unit.handling.transport import NOW, Kept, outlet

AT = datetime.fromtimestamp(NOW, UTC)


@message_type("song.played", "Played")
class Song(BaseModel):
    title: str


class LiveSong(Song):
    crowd: int = 0


class Encore(LiveSong): ...


@dataclass
class Pause:
    minutes: int


class Setlist(TypedDict):
    songs: list[str]


class Rider(TypedDict, total=False):
    water: int


@runtime_checkable
class Loud(Protocol):
    decibel: int


class Silent(Protocol):
    silence: int


songs = Queue("songs", Song)
evening = Topic("evening", Song, Pause)
loose: Queue[Any] = Queue("loose")


class Out(Publisher):
    """A publisher over an outlet."""

    def __init__(self, kept: Kept, *middleware: Any, codecs: Codecs | None = None) -> None:
        self.own = outlet(kept, *middleware, codecs=codecs)

    def _outlet(self) -> module.Outlet:
        return self.own


@pytest.fixture
def kept() -> Kept:
    """A transport that takes everything."""
    return Kept()


@pytest.fixture
def out(kept: Kept) -> Out:
    """What publishes through it."""
    return Out(kept)


# ---------------------------------------------------------------------------------------------- the message


async def test_a_payload_becomes_a_message(kept: Kept, out: Out) -> None:
    """What is sent has an id, a type, a content type and a date; it is what is returned."""
    sent = await out.publish(songs, Song(title="Hey"))
    assert sent == Message(
        b'{"title":"Hey"}', sent.id, "song.played", "application/json", published_at=AT, headers={}, key=None
    )
    assert len(sent.id) == 32
    assert kept.outgoing == [Outgoing(songs, sent)]
    assert kept.timeouts == [30.0]


async def test_every_option_reaches_the_message(kept: Kept, out: Out) -> None:
    """What is said of a publish is in its message; delay and expiry go with it."""
    sent = await out.publish(
        songs,
        Song(title="Hey"),
        key="k",
        headers={"a": "b"},
        delay_s=5,
        ttl_s=60,
        id="1",
        correlation_id="c",
        reply_to="r",
        timeout_s=2,
    )
    assert sent == Message(
        b'{"title":"Hey"}', "1", "song.played", "application/json", {"a": "b"}, "k", "c", "r", AT, 60
    )
    (stored,) = kept.outgoing
    assert stored.delay_s == 5
    assert stored.carried == {"bf-expires-at": expires_at(NOW, 5, 60)}
    assert kept.timeouts == [2]


async def test_ids_are_new_each_time(out: Out) -> None:
    """Two publishes of one payload are two messages."""
    assert len({(await out.publish(loose, "x")).id for _ in range(50)}) == 50


async def test_headers_are_the_messages_own(out: Out) -> None:
    """What the application does to its mapping afterwards changes no message, and nobody changes the message's."""
    headers = {"a": "b"}
    sent = await out.publish(loose, "x", headers=headers)
    forwarded = await out.publish(loose, Message(b"", "1", headers=headers))
    headers["a"] = "changed"
    assert sent.headers == forwarded.headers == {"a": "b"}
    with pytest.raises(TypeError):
        sent.headers["a"] = "c"  # type: ignore[index]


# ---------------------------------------------------------------------------------------------- the type


@pytest.mark.parametrize(
    ("to", "body", "kind"),
    [
        (songs, Song(title="x"), "song.played"),
        (songs, LiveSong(title="x"), "song.played"),
        (evening, Pause(3), "Pause"),
        (loose, Song(title="x"), "song.played"),
        (loose, LiveSong(title="x"), "LiveSong"),
        (loose, Pause(3), "Pause"),
        (Topic("live", Song, LiveSong), LiveSong(title="x"), "LiveSong"),
        (Topic("live", Song, LiveSong), Encore(title="x"), "LiveSong"),
        (Topic("live", LiveSong, Song), Encore(title="x"), "LiveSong"),
        *((loose, body, None) for body in ({"a": 1}, [1], (1,), "x", b"x", bytearray(b"x"), 1, 1.5, True, None)),
        *((Queue("one", type(body)), body, None) for body in ({"a": 1}, [1], "x", b"x", 1, 1.5, True)),
        (Queue("one", float), 1, None),
        (Queue("one", int), True, None),
        (Topic("two", str, Song), "x", "str"),
        (Topic("two", dict, Song), {"a": 1}, "dict"),
        (Topic("two", float, Song), 1, "float"),
        (Queue("lists", Setlist), {"songs": []}, "Setlist"),
        (Queue("lists", Rider, Setlist), {"songs": []}, "Setlist"),
        (Queue("lists", Rider, Setlist), {"water": 1}, "Rider"),
        (Queue("lists", dict, Setlist), {"songs": []}, "Setlist"),
        (Queue("lists", Setlist, dict), {"other": 1}, "dict"),
    ],
)
async def test_the_type_is_the_declared_classs_name(out: Out, to: Destination[Any], body: Any, kind: str) -> None:
    """A subclass goes as its nearest declared base; a builtin needs a name only among others."""
    for _ in range(2):  # the second one is remembered
        assert (await out.publish(to, body)).type == kind


async def test_protocols_are_asked_where_they_can_be(out: Out) -> None:
    """A declared protocol takes what has its members, and one that cannot be asked takes nothing."""

    class Band(BaseModel):
        decibel: int

    kinds: dict[str, Any] = {"loud": Loud, "silent": Silent}
    assert (await out.publish(Topic("loud", kinds["loud"]), Band(decibel=90))).type == "Loud"
    with pytest.raises(EncodeFailed, match="carries Silent, not Band"):
        await out.publish(Topic("silent", kinds["silent"]), Band(decibel=1))


async def test_what_is_not_declared_is_refused(kept: Kept, out: Out) -> None:
    """The error names the destination's classes, the payload's, and the message; nothing is sent."""
    for to, body in ((songs, Pause(1)), (evening, "x"), (Queue("t", str), b"x"), (Queue("i", int), 1.5)):
        with pytest.raises(EncodeFailed, match="add the class to its declaration") as error:
            await out.publish(to, body, id="m")  # type: ignore[misc]
        assert error.value.message_id == "m"
    with pytest.raises(EncodeFailed, match="carries Setlist, not a dict with the keys sogns: correct the keys"):
        await out.publish(Queue("lists", Setlist), {"sogns": []})  # type: ignore[misc]
    assert kept.calls == []


async def test_two_topics_of_one_name_have_types_of_their_own(out: Out) -> None:
    """What one declaration of a name allows says nothing about another one."""
    assert (await out.publish(Topic("evening"), {"a": 1})).type is None
    with pytest.raises(EncodeFailed):
        await out.publish(evening, {"a": 1})  # type: ignore[misc]


async def test_only_destinations_are_published_to(out: Out) -> None:
    """A subscription or dead letters are sources; a name is not a queue."""
    for wrong in (evening.subscription("x"), songs.dead_letters, "songs", None):
        with pytest.raises(EncodeFailed, match="is not a queue or a topic"):
            await out.publish(wrong, Song(title="x"))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit, GeneratorExit])
async def test_whatever_encoding_raises_is_one_error(out: Out, error: type[BaseException]) -> None:
    """A serializer that raises anything is the payload's failure, and no cancellation of the publisher."""

    class Broken(BaseModel):
        field: int = 1

        @field_serializer("field")
        def fail(self, value: int) -> int:
            raise error("no")

    with pytest.raises(EncodeFailed, match="Broken cannot be encoded for loose") as failed:
        await out.publish(loose, Broken())
    assert failed.value.__cause__ is not None


# ---------------------------------------------------------------------------------------------- forwarding

DEAD = DeadLetterInfo("attempts", None, None, None, 3, None, AT, "songs", None, "host", 0)


async def test_a_message_is_forwarded_as_it_is(kept: Kept, out: Out) -> None:
    """Body, type, content type, headers, key and correlation go on; id, dates and death do not."""
    letter = Message(
        b"raw", "old", "any", "text/x", {"a": "b"}, "k", "c", "r", datetime(2020, 1, 1, tzinfo=UTC), 9, DEAD
    )
    sent = await out.publish(songs, letter)
    assert sent == Message(b"raw", sent.id, "any", "text/x", {"a": "b"}, "k", "c", None, AT)
    assert sent.id != "old"
    assert kept.outgoing[0].carried == {}


async def test_a_forwarded_message_can_be_changed_on_the_way(out: Out) -> None:
    """What is said of the publish is stronger than what the message says."""
    letter = Message(b"raw", "old", headers={"a": "b"}, key="k", correlation_id="c")
    sent = await out.publish(loose, letter, key="", headers={}, correlation_id="d", id="new", reply_to="r", ttl_s=5)
    assert sent == Message(b"raw", "new", None, None, {}, "", "d", "r", AT, 5)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("delay_s", [-1, float("inf"), float("nan"), "3", None])
async def test_a_delay_is_a_number_of_seconds(out: Out, delay_s: Any) -> None:
    """The publish surely failed, and trying again does not help."""
    with pytest.raises(PublishFailed, match="delay_s must be 0 or more seconds") as error:
        await out.publish(loose, "x", delay_s=delay_s, id="m")
    assert not error.value.transient
    assert error.value.message_id == "m"


@pytest.mark.parametrize("ttl_s", [0, -1, float("inf"), float("nan"), "3"])
async def test_a_time_to_live_is_a_number_of_seconds(out: Out, ttl_s: Any) -> None:
    """A message that is never valid, or for ever, is a mistake."""
    with pytest.raises(PublishFailed, match="ttl_s must be more than 0 seconds"):
        await out.publish(loose, "x", ttl_s=ttl_s)


async def test_a_delay_that_the_transport_cannot_do_is_unsupported() -> None:
    """The error says how long it can, and what else to do."""
    with pytest.raises(Unsupported, match="at most 10 s, not 11 s: keep the message until it is due"):
        await Out(Kept(publish_delay_max_s=10)).publish(loose, "x", delay_s=11)
    await Out(Kept(publish_delay_max_s=0.0)).publish(loose, "x", delay_s=0)


async def test_a_message_over_the_limit_is_never_sent() -> None:
    """Size and limit are facts of the error; headers count."""
    kept = Kept(max_message_bytes=10)
    await Out(kept).publish(loose, b"0123456789")
    with pytest.raises(MessageTooLarge) as error:
        await Out(kept).publish(loose, b"0123456", headers={"ab": "cd"})
    assert (error.value.size, error.value.limit) == (11, 10)
    assert len(kept.calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"bf-id": "1"}},
        {"headers": {"a": 1}},
        {"headers": "text"},
        {"headers": 7},
        {"id": ""},
        {"id": 7},
        {"key": "ü"},
        {"correlation_id": "x" * 129},
        {"reply_to": "a\nb"},
    ],
)
async def test_fields_that_would_not_travel_are_refused(kept: Kept, out: Out, options: dict[str, Any]) -> None:
    """Whatever is wrong with a field or header is ``InvalidHeader``, for a payload and for a message."""
    for body in (Song(title="x"), Message(b"", "1")):
        with pytest.raises(InvalidHeader):
            await out.publish(loose, body, **options)
    assert kept.calls == []


# ---------------------------------------------------------------------------------------------- outcomes


async def test_an_outcome_is_raised_with_the_messages_id() -> None:
    """A transport need not fill it in; what it says itself stays."""
    with pytest.raises(DestinationNotFound) as error:
        await Out(Kept(lambda out: DestinationNotFound("songs"))).publish(loose, "x", id="m")
    assert error.value.message_id == "m"
    with pytest.raises(PublishFailed) as other:
        await Out(Kept(lambda out: PublishFailed("full", message_id="own"))).publish(loose, "x", id="m")
    assert other.value.message_id == "own"


async def test_any_other_outcome_is_unknown() -> None:
    """What a transport did not call a publish error may have happened before or after the message was stored."""
    cause = ConnectionFailed("gone")
    with pytest.raises(PublishOutcomeUnknown, match="gone") as error:
        await Out(Kept(lambda out: cause)).publish(loose, "x", id="m")
    assert error.value.__cause__ is cause
    assert error.value.message_id == "m"
    with pytest.raises(Unsupported):
        await Out(Kept(lambda out: Unsupported("no"))).publish(loose, "x")


async def test_a_closed_outlet_sends_nothing(kept: Kept) -> None:
    """The error says where to publish."""
    out = Out(kept)
    out.own.closed = True
    with pytest.raises(ClosedError, match="publish inside `async with bus`"):
        await out.publish(loose, "x")
    with pytest.raises(ClosedError):
        await out.publish_many(loose, ["x"])
    assert kept.calls == []


# ---------------------------------------------------------------------------------------------- many


async def test_many_are_sent_in_order_a_window_at_a_time(kept: Kept, out: Out) -> None:
    """No more than a window is read ahead of what was sent."""
    read: list[int] = []

    def bodies() -> Iterator[int]:
        for number in range(2500):
            read.append(len(kept.calls))
            yield number

    sent = await out.publish_many(loose, bodies(), keys=lambda number: f"k{number % 2}", headers={"a": "b"}, ttl_s=9)
    assert [len(call) for call in kept.calls] == [1000, 1000, 500]
    assert read == [0] * 1000 + [1] * 1000 + [2] * 500
    assert [message.body for message in sent] == [str(number).encode() for number in range(2500)]
    assert [message.key for message in sent[:3]] == ["k0", "k1", "k0"]
    assert {message.correlation_id for message in sent} == {None}
    assert len({message.id for message in sent}) == 2500


async def test_a_window_is_bounded_by_bytes_too(kept: Kept, out: Out) -> None:
    """Large bodies are not collected by the thousand."""
    await out.publish_many(loose, (b"x" * 6_000_000 for _ in range(3)), key="k")
    assert [len(call) for call in kept.calls] == [2, 1]


async def test_many_of_none_are_none(kept: Kept, out: Out) -> None:
    """Nothing is sent for an empty collection."""
    assert await out.publish_many(loose, []) == []
    assert kept.calls == []


async def test_the_first_failure_of_a_window_ends_it() -> None:
    """Nothing after its window is sent; the error's notes say how many were confirmed."""

    def outcome(out: Outgoing) -> Exception | None:
        return PublishFailed("full") if int(out.message.body) >= 1998 else None

    kept = Kept(outcome)
    with pytest.raises(PublishFailed) as error:
        await Out(kept).publish_many(loose, range(5000))
    assert [len(call) for call in kept.calls] == [1000, 1000]
    assert error.value.message_id == kept.calls[1][998].message.id
    assert error.value.__notes__ == [
        "of its window 2 messages failed and 998 were confirmed",
        f"also: full (message {kept.calls[1][999].message.id})",
        "1000 messages before these were confirmed",
    ]


async def test_a_payload_that_fails_later_says_what_was_confirmed(kept: Kept, out: Out) -> None:
    """A body that cannot be encoded ends the publish before its own window."""
    bodies: list[Any] = [*range(1005), object()]
    with pytest.raises(EncodeFailed) as error:
        await out.publish_many(loose, bodies)
    assert error.value.__notes__ == ["1000 messages before these were confirmed"]
    assert len(kept.outgoing) == 1000


# ---------------------------------------------------------------------------------------------- middleware

Send = Callable[[Message], Awaitable[None]]


async def test_publish_middleware_is_around_every_message(kept: Kept) -> None:
    """The outermost begins; what it changes is checked, sent and returned."""
    steps: list[str] = []

    def step(name: str) -> Any:
        async def around(to: Destination[Any], message: Message, send: Send) -> None:
            steps.append(f"{name} {to} {message.body.decode()}")
            await send(replace(message, headers={**message.headers, name: "was here"}))

        return around

    out = Out(kept, step("one"), step("two"))
    sent = await out.publish(loose, "a")
    assert sent.headers == {"one": "was here", "two": "was here"}
    await out.publish_many(loose, ["b", "c"])
    assert steps == [f"{name} loose {body}" for body in "abc" for name in ("one", "two")]
    assert [out.message.body for out in kept.outgoing] == [b"a", b"b", b"c"]
    assert kept.outgoing[0].message == sent


async def test_publish_middleware_may_not_send(kept: Kept) -> None:
    """A message that it keeps is no error."""

    async def swallow(to: Destination[Any], message: Message, send: Send) -> None: ...

    assert (await Out(kept, swallow).publish(loose, "a")).body == b"a"
    assert kept.calls == []


async def test_what_publish_middleware_changes_is_checked_and_carried(kept: Kept) -> None:
    """A header that would not travel is refused; a time to live that it sets makes the message expire."""

    async def wrong(to: Destination[Any], message: Message, send: Send) -> None:
        await send(replace(message, headers={"bf-x": "1"}))

    async def limited(to: Destination[Any], message: Message, send: Send) -> None:
        await send(replace(message, ttl_s=60))

    async def unlimited(to: Destination[Any], message: Message, send: Send) -> None:
        await send(replace(message, ttl_s=None))

    with pytest.raises(InvalidHeader):
        await Out(kept, wrong).publish(loose, "a")
    await Out(kept, limited).publish(loose, "a", delay_s=1)
    await Out(kept, unlimited).publish(loose, "a", ttl_s=5)
    await Out(kept, limited).publish(loose, "a", ttl_s=60)
    expiry = {"bf-expires-at": expires_at(NOW, 0, 60)}
    assert [out.carried for out in kept.outgoing] == [{"bf-expires-at": expires_at(NOW, 1, 60)}, {}, expiry]


async def test_a_failure_inside_middleware_is_the_messages_own() -> None:
    """What is raised names the id that was sent, and how many went before."""

    async def renamed(to: Destination[Any], message: Message, send: Send) -> None:
        await send(replace(message, id=f"own-{message.body.decode()}"))

    out = Out(Kept(lambda out: PublishFailed("full") if out.message.body == b"2" else None), renamed)
    with pytest.raises(PublishError) as error:
        await out.publish_many(loose, range(4))
    assert error.value.message_id == "own-2"
    assert error.value.__notes__ == ["2 messages before these were confirmed"]


# ---------------------------------------------------------------------------------------------- the smaller kinds


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


async def test_other_payloads_are_encoded_as_json(out: Out) -> None:
    """Named tuples and enumerations need no codec of their own."""
    assert (await out.publish(Queue("points", Point), Point(1, 2))).type == "Point"
    assert (await out.publish(loose, Colour.RED)).body == b'"red"'
