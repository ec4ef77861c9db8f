"""JSON through pydantic: models, dataclasses, and everything else that it knows."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class JsonCodec:
    """The default codec. Aliases of a model are used both ways, so that what it writes it can read."""

    content_type = "application/json"

    def encode(self, payload: object, /) -> bytes:
        """The payload as JSON."""
        return self.encoder(type(payload))(payload)

    def decode(self, body: bytes, kind: type[Any], /) -> Any:
        """A validated payload, straight from the bytes."""
        return self.decoder(kind)(body)

    def encoder(self, kind: Any) -> Callable[[Any], bytes]:
        """The function that encodes payloads of this class."""
        if kind in (dict, list, tuple, int, float, bool, type(None)):
            from pydantic_core import to_json

            return lambda payload: to_json(payload, inf_nan_mode="constants")
        dump = _adapter(kind).serializer.to_json  # dump_json would hand on each of its ten options as well
        return lambda payload: dump(payload, by_alias=True)

    def decoder(self, kind: Any) -> Callable[[bytes], Any]:
        """The function that decodes payloads of this type."""
        return _adapter(kind).validator.validate_json


@lru_cache(maxsize=1024)
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    # pydantic takes half of the time that `import busframe` would: it is loaded with the first payload.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
