from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from busframe.errors import Unsupported
from busframe.model.destination import Queue
from busframe.spi.plugin import SPI_VERSION, Plugin
from busframe.spi.transport import Receiver, Transport


class LeastReceiver(Receiver):
    """Implements what must be, and nothing that need not."""

    async def open(self) -> None: ...
    async def receive(self, limit: int) -> Sequence[Any]:
        return []

    async def settle(self, settled: Sequence[Any]) -> Sequence[Exception | None]:
        return []

    async def stop(self) -> None: ...
    async def close(self) -> None: ...


class LeastTransport(Transport):
    """Implements what must be, and nothing that need not."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def plan(self, entities: Any) -> Sequence[Any]:
        return []

    async def apply(self, changes: Any) -> None: ...
    async def publish(self, outgoing: Any, *, timeout_s: float) -> Sequence[Exception | None]:
        return []

    def receiver(self, entity: Any, *, prefetch: int, ack: str = "after") -> Receiver:
        return LeastReceiver()

    async def browse(self, source: Any, *, after: str = "", limit: int = 100) -> Sequence[Any]:
        return []

    async def remove(self, source: Any, positions: Sequence[str]) -> int:
        return 0

    async def purge(self, source: Any) -> int:
        return 0


async def test_what_a_transport_does_not_have_it_says() -> None:
    """Statistics that were not written raise Unsupported with the transport's and the source's names."""
    with pytest.raises(Unsupported, match=r"^LeastTransport has no statistics of q!dead$"):
        await LeastTransport().stats(Queue("q").dead_letters)


async def test_optional_parts_do_nothing() -> None:
    """A transport without findings, a native client, a stored filter or a prefetch of its own is whole."""
    transport, receiver = LeastTransport(), LeastReceiver()
    assert list(await transport.diagnose()) == []
    assert transport.native is None
    assert receiver.where is None
    await receiver.resize(1)


def test_a_transport_must_have_the_rest() -> None:
    """A class without one of the required methods cannot be made."""
    kinds: list[Any] = [Transport, Receiver]
    for kind in kinds:
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_a_plugin_is_of_this_version_unless_it_says_another() -> None:
    """A plugin built with this interface carries its version."""
    made = Plugin("x", ("x", "xs"), BaseModel, lambda settings, host: LeastTransport())
    assert made.spi_version == SPI_VERSION
