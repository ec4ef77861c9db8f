import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from busframe import Bus, Message, Queue, Topic
from busframe.memory import MemoryBroker, MemoryTransport
from tests.unit.cli.conftest import Invoke

Refused = Callable[..., str]


def stored(broker: MemoryBroker, source: str) -> Sequence[Message]:
    """The messages of a queue, or of a subscription, oldest first."""
    address = Queue(source)

    async def browse() -> Sequence[Message]:
        transports: list[MemoryTransport] = []

        def make(host: object) -> MemoryTransport:
            transports.append(MemoryTransport(host, broker))  # type: ignore[arg-type]
            return transports[0]

        async with Bus(transport=make, config={"topology": "assume", "url": "kept://h"}):
            return [found.message for found in await transports[0].browse(address, limit=10_000)]

    return asyncio.run(browse())


def test_typed_body(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """A body is validated as the destination's type and published with everything that was said; the id is printed."""
    words = ("--key", "k", "--header", "a=1", "--header", "b=x=y", "--ttl", "60")
    result = invoke("publish", "shop:bus", "emails", '{"to": "me"}', *words)
    assert result.exit_code == 0, result.output
    (message,) = stored(kept, "emails")
    assert result.stdout == f"{message.id}\n"
    assert (json.loads(message.body), message.type, message.content_type) == ({"to": "me"}, "Email", "application/json")
    assert (message.key, dict(message.headers), message.ttl_s) == ("k", {"a": "1", "b": "x=y"}, 60.0)


def test_one_of_several_types(shop: Path, kept: MemoryBroker, invoke: Invoke, refused: Refused) -> None:
    """Where there are several types one is named, by its id, an alias or its class."""
    body = '{"order_id": 1}'
    assert refused("publish", "order-events", body) == (
        "order-events carries several types: say --type order.created or --type OrderCancelled"
    )
    assert "no type 'order.creatd'; did you mean order.created?" in refused(
        "publish", "order-events", body, "--type", "order.creatd"
    )
    for name in ("order.created", "OrderCreatedV1", "OrderCreated", "OrderCancelled"):
        assert invoke("publish", "topic:order-events", body, "--type", name).exit_code == 0


def test_wrong_body(shop: Path, kept: MemoryBroker, refused: Refused) -> None:
    """A body that is not of the type is refused with what is wrong, before anything is sent."""
    assert refused("publish", "emails", '{"too": "me"}') == "the body is no Email: to: field required"
    assert refused("publish", "emails", "{").startswith("the body is not JSON: EOF while parsing")
    assert refused("publish", "emails").startswith("the body is not JSON")
    assert refused("publish", "emails", "3").startswith("the body is no Email: input should be an object")


def test_text_bytes_and_untyped(shop: Path, kept: MemoryBroker, invoke: Invoke, refused: Refused) -> None:
    """Text and bytes are sent as they are; without declared types the content type says what it looks like."""
    (shop / "blob").write_bytes(b"\xff\x00")
    for words in (
        ("notes", "hello"),
        ("blobs", "@blob"),
        ("raw", '{"a": 1}', "--type", "thing"),
        ("raw", "hello"),
        ("raw", "@blob"),
        ("raw",),
    ):
        assert invoke("publish", "shop:bus", *words).exit_code == 0
    assert [message.body for message in stored(kept, "notes")] == [b"hello"]
    assert [message.body for message in stored(kept, "blobs")] == [b"\xff\x00"]
    assert [(message.body, message.type, message.content_type) for message in stored(kept, "raw")] == [
        (b'{"a": 1}', "thing", "application/json"),
        (b"hello", None, "text/plain; charset=utf-8"),
        (b"\xff\x00", None, "application/octet-stream"),
        (b"", None, "text/plain; charset=utf-8"),
    ]
    assert "the body is not UTF-8 text" in refused("publish", "notes", "@blob")


def test_unknown_destination(shop: Path, kept: MemoryBroker, refused: Refused) -> None:
    """A name that the application does not have is shown with the close ones."""
    assert refused("publish", "emials", "{}").startswith(
        "shop:bus has no destination 'emials'; did you mean emails? It has"
    )
    assert "'order-events/inventory' is a subscription: publish to its topic" in refused(
        "publish", "order-events/inventory", "{}"
    )
    assert "no destination 'topic:emails'" in refused("publish", "topic:emails", "{}")
    (shop / "empty.py").write_text("from busframe import Bus\nbus = Bus()\n")
    assert "empty:bus publishes to nothing" in refused("publish", "empty:bus", "emails", "{}")


def test_url(shop: Path, kept: MemoryBroker, invoke: Invoke, refused: Refused) -> None:
    """With a URL the destination says its kind; nothing is created by a mistyped name."""
    assert invoke("publish", "shop:bus", "raw", "1").exit_code == 0
    assert invoke("publish", "kept://u:s3cret@h", "queue:raw", "2").exit_code == 0
    assert [message.body for message in stored(kept, "raw")] == [b"1", b"2"]
    assert "say queue:raw or topic:raw" in refused("publish", "kept://h", "raw", "2")
    assert "'rwa' does not exist on the broker" in refused("publish", "kept://h", "queue:rwa", "2", code=1)
    assert "queue name 'a--b' is not valid" in refused("publish", "kept://h", "queue:a--b", "2")


def test_without_app(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """Where no app is configured, a kind and a name are enough on the configured broker."""
    assert invoke("publish", "shop:bus", "raw", "1").exit_code == 0
    (shop / "busframe.toml").write_text('url = "kept://h"')
    assert invoke("publish", "queue:raw", "2").exit_code == 0
    assert invoke("publish", "--url", "kept://h", "queue:raw", "3").exit_code == 0
    assert len(stored(kept, "raw")) == 3


def test_count(shop: Path, kept: MemoryBroker, invoke: Invoke, refused: Refused) -> None:
    """--count sends the body so many times, each with an id of its own."""
    result = invoke("publish", "raw", "x", "--count", "1500")
    assert result.exit_code == 0, result.output
    ids = result.stdout.splitlines()
    assert len(set(ids)) == 1500
    assert [message.id for message in stored(kept, "raw")] == ids
    assert result.stderr == "1500 confirmed by raw\n"
    assert "--count repeats one body" in refused("publish", "raw", "-", "--count", "2")


def test_lines(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """Each line of standard input that is not empty is a message, in order, the last one without a line feed too."""
    lines = (
        "".join(f'{{"to": "{number}"}}\n{"" if number % 2 else chr(10)}' for number in range(3000)) + '{"to": "last"}'
    )
    result = invoke("publish", "emails", "-", input=lines)
    assert result.exit_code == 0, result.output
    assert result.stderr == "3001 confirmed by emails\n"
    messages = stored(kept, "emails")
    assert [message.id for message in messages] == result.stdout.splitlines()
    assert [json.loads(message.body)["to"] for message in messages] == [*map(str, range(3000)), "last"]


def test_wrong_line(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """A line that is no message ends it with its number; those before it are confirmed, none after it is sent."""
    result = invoke("publish", "emails", "-", input='{"to": "a"}\n\n{"too": "b"}\n{"to": "c"}\n')
    assert result.exit_code == 1
    assert result.stderr == "1 confirmed by emails\nError: line 3: the body is no Email: to: field required\n"
    assert [json.loads(message.body) for message in stored(kept, "emails")] == [{"to": "a"}]


@pytest.mark.parametrize("url", ["memory://", "memory://x"])
def test_memory(shop: Path, refused: Refused, url: str) -> None:
    """Publishing to memory:// from this process would reach nobody: it says so, and what to do instead."""
    for words in ((url, "queue:raw", "1"), ("--url", url, "shop:bus", "raw", "1")):
        text = refused("publish", *words)
        assert text.startswith("memory:// lives inside one process: what this command publishes would reach nobody")
        assert "BUSFRAME_URL=amqp://localhost" in text


def test_broker_not_there(shop: Path, kept: MemoryBroker, refused: Refused) -> None:
    """A broker that is not reached is exit code 4, for one message and for many."""
    assert "nothing listens" in refused("publish", "--url", "gone://h", "raw", "1", code=4)
    assert "nothing listens" in refused("publish", "gone://h", "queue:raw", "1", "--count", "2", code=4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("shop:bus",), "DESTINATION is missing"),
        (("shop:bus", "raw", "a", "b"), "4 words are too many: quote the BODY"),
        (("shop", "raw", "a"), "'shop' is no APP (module:attribute) or URL"),
        (("raw", "a", "--header", "x"), "'x' is not K=V"),
        (("raw", "@nowhere"), "nowhere cannot be read: No such file"),
        (("raw", "a", "--header", "a b=c"), "header"),
        (("raw", "a", "--delay", "-1"), "not in the range"),
    ],
)
def test_usage(shop: Path, kept: MemoryBroker, refused: Refused, words: tuple[str, ...], says: str) -> None:
    """What cannot be meant is refused with what to write."""
    assert says in refused("publish", *words)


def test_topic_by_url(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """A topic is published to by topic:NAME."""

    async def declare() -> None:
        async with Bus("kept://h", uses=[Topic("news").subscription("all")]):
            pass

    asyncio.run(declare())
    assert invoke("publish", "kept://h", "topic:news", "1").exit_code == 0
