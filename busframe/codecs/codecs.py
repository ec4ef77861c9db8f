"""Which codec encodes a payload, and which decodes a body."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from busframe.codecs.codec import Codec
from busframe.codecs.json import JsonCodec
from busframe.errors import ConfigurationError, DecodeFailed

Decoder: TypeAlias = Callable[[bytes], Any]

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

# Foreign programs leave the content type out, or say one of these for anything: then what counts is whether it parses.
_VAGUE = frozenset({None, "", "text/plain", "application/octet-stream", "binary/octet-stream"})


class Encoded(NamedTuple):
    """What became of a payload."""

    body: bytes
    content_type: str


class Codecs:
    """The codecs of one bus.

    ``bytes`` and ``str`` travel as they are. Everything else is encoded by the first codec that the application gave,
    else as JSON; what is received is decoded by the codec of its content type.
    """

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        self._json = JsonCodec()
        self._default: Codec = codecs[0] if codecs else self._json
        self._by_type: dict[str, Codec] = {}
        for codec in codecs:
            content_type = _essence(codec.content_type)
            if content_type is None or self._by_type.setdefault(content_type, codec) is not codec:
                raise ConfigurationError(f"two codecs, or none, say the content type {codec.content_type!r}")
        self._encoders: dict[type, tuple[Callable[[Any], bytes], str]] = {}
        self._decoders: dict[tuple[str | None, Any], Decoder] = {}

    def encode(self, payload: object) -> Encoded:
        """The payload as bytes, with its content type. Raises whatever the codec raises."""
        kind = type(payload)
        found = self._encoders.get(kind)
        if found is None:
            found = self._encoders[kind] = self._encoder(kind)
        encode, content_type = found
        return Encoded(encode(payload), content_type)

    def _encoder(self, kind: type) -> tuple[Callable[[Any], bytes], str]:
        if issubclass(kind, bytes | bytearray | memoryview):
            return bytes, BINARY
        if issubclass(kind, str):
            return str.encode, TEXT
        if self._default is self._json:
            return self._json.encoder(kind), self._json.content_type
        return self._default.encode, self._default.content_type

    def decode(self, body: bytes, content_type: str | None, kind: Any) -> Any:
        """A payload of the type that a handler's annotation says.

        Raises:
            DecodeFailed: with the codec's own error as its cause.
        """
        decoder = self._decoders.get((content_type, kind))
        if decoder is None:
            decoder = self._decoder(content_type, kind)
            if len(self._decoders) < 1024:  # content types come from outside
                self._decoders[content_type, kind] = decoder
        try:
            return decoder(body)
        except Exception as error:
            name = getattr(kind, "__name__", str(kind))
            raise DecodeFailed(f"the body is not {name} as {content_type or 'JSON'}: {error}") from error

    def _decoder(self, content_type: str | None, kind: Any) -> Decoder:
        essence = _essence(content_type)
        own = self._by_type.get(essence) if essence else None
        if own is not None:
            return lambda body: own.decode(body, kind)
        if kind is bytes:
            return bytes
        if kind is str:
            return lambda body: body.decode("utf-8")
        if essence in _VAGUE or essence == "application/json" or (essence and essence.endswith("+json")):
            return self._json.decoder(kind)
        known = ", ".join(sorted([self._json.content_type, *self._by_type]))
        raise DecodeFailed(f"no codec for content type {content_type!r}: there are {known}; give Bus(codecs=[…]) one")


def _essence(content_type: str | None) -> str | None:
    return content_type.partition(";")[0].strip().lower() if content_type is not None else None
