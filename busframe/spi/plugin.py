"""How a transport is found: one entry point in the group ``busframe.transports`` for each URL scheme."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from busframe.spi.transport import Host, Transport

if TYPE_CHECKING:
    from pydantic import BaseModel

    S = TypeVar("S", bound=BaseModel)
else:
    S = TypeVar("S")

SPI_VERSION = 1
"""The version of this interface. A plugin that was written for another one is refused with ``SpiMismatch``."""


@dataclass(frozen=True, slots=True)
class Plugin(Generic[S]):
    """What an entry point names.

    Attributes:
        name: of the plugin, as in ``[transports.<name>]``.
        schemes: the URL schemes that it takes.
        settings: a pydantic model, importable without the client library. It has a field ``url``, which gets the
            URL without its query; the query's options and the plugin's table fill the others; an unknown one is an
            error. Secrets in it never show in its ``repr``.
        create: makes a transport; connects nothing.
        spi_version: of the interface it was written for.
    """

    name: str
    schemes: tuple[str, ...]
    settings: type[S]
    create: Callable[[S, Host], Transport]
    spi_version: int = SPI_VERSION
