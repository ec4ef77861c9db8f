"""What a codec is."""

from typing import Any, Protocol


class Codec(Protocol):
    """Turns payloads into bytes and back, for one content type. Called on the event loop: it may not block."""

    content_type: str
    """What it writes, such as ``application/msgpack``; messages of this content type are decoded by it."""

    def encode(self, payload: object, /) -> bytes:
        """The payload as bytes. Whatever it raises becomes ``EncodeFailed``."""
        ...

    def decode(self, body: bytes, kind: type[Any], /) -> Any:
        """A payload of this type. Whatever it raises becomes ``DecodeFailed``: the message is ``undecodable``."""
        ...
