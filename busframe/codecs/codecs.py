"""Which codec encodes a payload, and which decodes a body."""

from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

from busframe.codecs.codec import Codec
from busframe.codecs.json import JsonCodec
from busframe.errors import ConfigurationError, DecodeFailed

Decoder: TypeAlias = Callable[[bytes], Any]

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

# Foreign programs leave the content type out, or say one of these for anything: then what counts is whether it parses.
_VAGUE = frozenset({None, "", "text/plain", "application/octet-stream", "binary/octet-stream"})

# Python knows more, and some of them take for ever on what somebody sends.
_CHARSETS = frozenset(
    {"utf-8", "utf-8-sig", "us-ascii", "ascii", "iso-8859-1", "latin-1", "iso-8859-15", "windows-1252", "utf-16"}
)


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
            essence = _essence(getattr(codec, "content_type", None))
            if not essence:
                raise ConfigurationError(f'{codec!r} is no codec: it needs a content_type, such as "application/cbor"')
            if self._by_type.setdefault(essence, codec) is not codec:
                raise ConfigurationError(f"two codecs say the content type {essence!r}: give Bus(codecs=[…]) one of it")
        self._encoders: dict[type, tuple[Callable[[Any], bytes], str]] = {}
        self._decoders: dict[tuple[str | None, Any], Decoder] = {}

    def encode(self, payload: object) -> tuple[bytes, str]:
        """The payload as bytes, and its content type. Raises whatever the codec raises."""
        kind = type(payload)
        found = self._encoders.get(kind)
        if found is None:
            found = self._encoders[kind] = self._encoder(kind)
        encode, content_type = found
        return encode(payload), content_type

    def _encoder(self, kind: type) -> tuple[Callable[[Any], bytes], str]:
        if issubclass(kind, bytes | bytearray | memoryview):
            return bytes, BINARY
        if issubclass(kind, str):
            return str.encode, TEXT
        if self._default is self._json:
            return self._json.encoder(kind), self._json.content_type
        return _checked(self._default), self._default.content_type

    def decode(self, body: bytes, content_type: str | None, kind: Any) -> Any:
        """A payload of the type that a handler's annotation says.

        Raises:
            DecodeFailed: with the codec's own error as its cause.
        """
        try:
            decoder = self._decoders.get((content_type, kind))
            if decoder is None:
                decoder = self._decoder(content_type, kind)
                if len(self._decoders) < 1024:  # content types come from outside
                    self._decoders[content_type, kind] = decoder
            return decoder(body)
        except (DecodeFailed, KeyboardInterrupt):
            raise
        except BaseException as error:  # a validator may raise anything; nothing here waits, so it is no cancellation
            name = kind.__name__ if isinstance(kind, type) else str(kind)
            raise DecodeFailed(f"the body is not {name} as {content_type or 'JSON'}: {_explain(error)}") from error

    def _decoder(self, content_type: str | None, kind: Any) -> Decoder:
        essence = _essence(content_type)
        if kind is bytes:
            return bytes
        if essence == "text/plain" and _takes(kind, str):
            return _text(content_type)
        if essence == BINARY and _takes(kind, bytes):
            return bytes
        own = self._by_type.get(essence) if essence else None
        if own is not None:
            return lambda body: own.decode(body, kind)
        if kind is str:
            return _text(content_type)
        if essence in _VAGUE or essence == "application/json" or (essence and essence.endswith("+json")):
            return self._json.decoder(kind)
        known = ", ".join(sorted({self._json.content_type, *self._by_type}))
        raise DecodeFailed(f"no codec for content type {content_type!r}: there are {known}; give Bus(codecs=[…]) one")


def _takes(kind: Any, wanted: type) -> bool:
    """Whether an annotation takes what travels as it is: text or bytes."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return any(member in (wanted, Any, object) for member in members)


def _text(content_type: str | None) -> Decoder:
    charset = "utf-8"
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    if charset not in _CHARSETS:
        raise DecodeFailed(
            f"the charset of content type {content_type!r} is not known: send UTF-8, or take the body as `bytes`"
        )
    return lambda body: body.decode(charset)


def _checked(codec: Codec) -> Callable[[Any], bytes]:
    encode = codec.encode

    def encode_and_check(payload: Any) -> bytes:
        content: object = encode(payload)
        if not isinstance(content, bytes):
            raise TypeError(f"{codec!r} made {type(content).__name__} of it, and not bytes")
        return content

    return encode_and_check


def _explain(error: BaseException) -> str:
    """What is wrong, without the values: the text goes to logs, and a body may hold what should not be there."""
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
        invalid: Any = error
        found = invalid.errors(include_url=False, include_context=False, include_input=False)
        shown = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in found[:5]]
        return "; ".join([*shown, f"and {len(found) - 5} more"] if len(found) > 5 else shown)
    return f"{type(error).__name__}: {error}"


def _essence(content_type: str | None) -> str | None:
    return content_type.partition(";")[0].strip().lower() if content_type is not None else None
