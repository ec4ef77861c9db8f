"""The brokers of this process that URLs name."""

import threading
from dataclasses import dataclass

from busframe.errors import InvalidSettings
from busframe.memory.broker import MemoryBroker


@dataclass(slots=True)
class _Shared:
    broker: MemoryBroker
    clients: int = 0


_lock = threading.Lock()
_brokers: dict[str, _Shared] = {}


def join(name: str, *, dedup_window_s: float, max_message_bytes: int) -> MemoryBroker:
    """The broker of a name, made for its first client.

    Raises:
        InvalidSettings: another client has it open with other settings.
    """
    with _lock:
        shared = _brokers.get(name)
        if shared is None:
            broker = MemoryBroker(dedup_window_s=dedup_window_s, max_message_bytes=max_message_bytes)
            shared = _brokers[name] = _Shared(broker)
        broker = shared.broker
        if (broker.dedup_window_s, broker.max_message_bytes) != (dedup_window_s, max_message_bytes):
            raise InvalidSettings(
                f"memory://{name} is open in this process with dedup_window_s={broker.dedup_window_s} and "
                f"max_message_bytes={broker.max_message_bytes}: use the same settings, or another name"
            )
        shared.clients += 1
        return broker


def leave(name: str) -> None:
    """One client less; the broker goes with the last one, so that the next test or program begins with nothing."""
    with _lock:
        shared = _brokers[name]
        shared.clients -= 1
        if not shared.clients:
            del _brokers[name]
