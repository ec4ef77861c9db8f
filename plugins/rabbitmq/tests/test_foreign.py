"""Messages of foreign programs whose properties the client cannot read."""

import struct
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.data import decode_value

from busframe.model.destination import Queue
from busframe.spi import RELEASE
from busframe_rabbitmq.channel import open_channel
from busframe_rabbitmq.foreign import readable
from plugins.rabbitmq.tests.support import opened
from tests.support.transports import consuming, declare, message, publish_all, receive, take

EMAILS = Queue[Any]("emails")
MILLISECONDS = b"T" + struct.pack(">Q", 1_764_000_000_000)


def sized(kind: bytes, content: bytes) -> bytes:
    """A value that begins with its size."""
    return kind + struct.pack(">I", len(content)) + content


def nested(depth: int) -> bytes:
    """Lists in lists."""
    value = b"V"
    for _ in range(depth):
        value = sized(b"A", value)
    return value


def properties_with(fields: bytes) -> bytes:
    """A property list with a content type, headers, a delivery mode and an id."""
    table = struct.pack(">I", len(fields)) + fields
    return struct.pack(">H", 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7) + b"\x01c" + table + b"\x02" + b"\x02id"


def field(name: bytes, value: bytes) -> bytes:
    """A header."""
    return bytes((len(name),)) + name + value


def read_again(fields: bytes) -> Any:
    """What the client reads of what was made readable."""
    made = readable(properties_with(fields), lambda value: decode_value(value, 0))
    properties = pika.BasicProperties().decode(made)
    assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("c", 2, "id")
    return properties.headers


UNREADABLE = [
    (MILLISECONDS, "1764000000000"),
    (b"d" + struct.pack(">d", float("nan")), "nan"),
    (b"f" + struct.pack(">f", float("-inf")), "-inf"),
    (sized(b"A", MILLISECONDS), "<list>"),
    (nested(3000), "<list>"),
    (sized(b"F", field(b"a", MILLISECONDS)), "<dict>"),
]


@pytest.mark.parametrize(("value", "text"), UNREADABLE, ids=lambda each: each if isinstance(each, str) else "")
def test_what_cannot_be_read_is_text_and_its_neighbours_stay(value: bytes, text: str) -> None:
    """A number is its text, a list or table its type."""
    with pytest.raises(Exception, match=r".+"):
        decode_value(value, 0)
    fields = field(b"a", b"I\x00\x00\x00\x07") + field(b"odd", value) + field(b"z", sized(b"S", b"last"))
    assert read_again(fields) == {"a": 7, "odd": text, "z": "last"}


KINDS = b"tbBUusIiLlfdDSxATFV"


@given(st.lists(st.tuples(st.sampled_from(list(KINDS)), st.binary(min_size=8, max_size=8))))
def test_values_of_every_kind_are_stepped_over(values: list[tuple[int, bytes]]) -> None:
    """What the client can read stays as it is, byte for byte."""
    lengths = {"V": 0, "t": 1, "b": 1, "B": 1, "s": 2, "U": 2, "u": 2, "I": 4, "i": 4, "f": 4, "D": 5}
    fields = b""
    for number, (kind, content) in enumerate(values):
        letter = bytes((kind,))
        value = sized(letter, b"") if letter in b"SxAF" else letter + content[: lengths.get(chr(kind), 8)]
        fields += field(str(number).encode(), value)
    headers = read_again(fields)
    assert list(headers) == [str(number) for number in range(len(values))]
    made = readable(properties_with(fields), lambda value: None)
    assert made == properties_with(fields)


@pytest.mark.parametrize("fields", [b"\x01a?", b"\x01", b"\x01aS\x00", b"\x09a"])
def test_headers_without_form_are_left_out(fields: bytes) -> None:
    """Of a list that ends in the middle, or has a type that nobody knows, nothing can be told."""
    assert read_again(fields) == {}


def test_without_headers_nothing_changes() -> None:
    """There is nothing to mend."""
    encoded = struct.pack(">HB", 1 << 12, 2)
    assert readable(encoded, lambda value: None) == encoded


async def test_no_header_ends_the_connection(rabbitmq_vhost: str) -> None:
    """It is delivered with what can be read, counted when it comes again, and its neighbours come over the same one."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        channel = await open_channel(await transport.consuming.wait_up())
        for to in ("emails", "emails--dead"):
            for value in (MILLISECONDS, nested(3000)):
                fields = field(b"odd", value) + field(b"bf-attempt", sized(b"S", b"2 emails"))
                channel.publish("", to, properties_with(fields), b"{}", mandatory=True)
        await channel.declare_queue("emails", passive=True)
        await publish_all(transport, EMAILS, message(b"healthy"))
        connection = transport.consuming.connection
        async with consuming(transport, EMAILS) as receiver:
            got = await receive(receiver, 3)
            assert await receiver.settle([(each, RELEASE) for each in got]) == [None] * 3
            again = await take(receiver, 3)
            assert {each.generation for each in again} == {0}
        assert [each.message.headers.get("odd") for each in got] == ["1764000000000", "<list>", None]
        assert [each.carried.get("bf-attempt") for each in got] == ["2 emails"] * 2 + [None]
        assert {each.deliveries for each in again} == {2}
        assert len(await transport.browse(EMAILS.dead_letters)) == 2
        assert transport.consuming.connection is connection
