"""Property lists of foreign programs that the client cannot read, made readable. Pure.

AMQP lets a program send what has no value in Python: a time in milliseconds (past the year 9999), a number that is
none, lists in lists without end. To the client that is a broken connection, and the message would come again over the
next one. It is one header of one message: the others are kept.
"""

import struct
from collections.abc import Callable, Iterator

_WORD, _SIZE = struct.Struct(">H"), struct.Struct(">I")
_HEADERS = 1 << 13
_BEFORE_HEADERS = (1 << 15, 1 << 14)
"""Content type and encoding, each a short text."""

_SIZES = {
    kind: size for size, kinds in enumerate(("V", "tbB", "sUu", "", "Iif", "D", "", "", "LldT")) for kind in kinds
}
"""In bytes, of values of a fixed size; all others begin with their own."""

_TEXTS = {"T": ">Q", "f": ">f", "d": ">d"}
"""Of these the number itself is the text."""


def readable(encoded: bytes, read: Callable[[bytes], object]) -> bytes:
    """The same property list, with each header that cannot be read as the text of its value.

    Args:
        encoded: as it was received.
        read: the client's reading of one value, with its type before it; raises where it cannot.

    Returns:
        A property list. A list or table that cannot be read is ``<list>`` or ``<dict>``; of headers that have no form
        at all none is there.
    """
    (flags,) = _WORD.unpack_from(encoded)
    if not flags & _HEADERS:
        return encoded
    at = _WORD.size
    for flag in _BEFORE_HEADERS:
        if flags & flag:
            at += 1 + encoded[at]
    start = at + _SIZE.size
    end = start + _SIZE.unpack_from(encoded, at)[0]
    try:
        table = b"".join(_fields(encoded[start:end], read))
    except (KeyError, IndexError, struct.error):
        table = b""
    return b"".join((encoded[:at], _SIZE.pack(len(table)), table, encoded[end:]))


def _fields(table: bytes, read: Callable[[bytes], object]) -> Iterator[bytes]:
    at = 0
    while at < len(table):
        value = at + 1 + table[at]
        kind = chr(table[value])
        sized = kind in "SxAF"
        following = value + 1 + (_SIZE.size + _SIZE.unpack_from(table, value + 1)[0] if sized else _SIZES[kind])
        yield table[at:value]
        yield _value(table[value:following], kind, read)
        at = following


def _value(value: bytes, kind: str, read: Callable[[bytes], object]) -> bytes:
    try:
        read(value)
    except Exception:  # years, infinities and depths raise as they like
        number = _TEXTS.get(kind)
        text = "<dict>" if kind == "F" else "<list>"
        if number is not None:
            text = str(struct.unpack_from(number, value, 1)[0])
        data = text.encode()
        return b"".join((b"S", _SIZE.pack(len(data)), data))
    return value
