"""The reference transport: a real broker's meaning inside one process, for tests, examples and trying things out.

**URLs.** ``memory://`` and ``memory://shop``: all clients of one process that name the same broker share it, on
whatever event loop or thread they run. When the last of them closes, the broker and its messages are gone.

**Delivery.** Every source is a table of rows; a subscription's copy is made when the message is published, if the
filter stored with the subscription takes it. Rows are handed out first come first served and leased to one receiver.
Delays, dead letters, key order and the window for duplicates are the broker's own. Nothing outlives the process.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busframe.memory.broker import MemoryBroker
    from busframe.memory.settings import plugin
    from busframe.memory.transport import MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport", "plugin"]

_HOMES = {"MemoryBroker": "broker", "MemoryTransport": "transport", "plugin": "settings"}


def __getattr__(name: str) -> object:
    """Import on first use: an application that names another broker pays for nothing here."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
