"""Payload ↔ bytes, by content type."""

from busframe.codecs.codec import Codec
from busframe.codecs.codecs import Codecs, Decoder

__all__ = ["Codec", "Codecs", "Decoder"]
