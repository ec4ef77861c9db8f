"""What succeeded lately: if its acknowledgement is lost, this process does not run it again (semantics A.7)."""

from collections import deque

from busframe.model.delivery import Delivery

REMEMBERED = 10_000


class Successes:
    """The last deliveries of a source that succeeded, up to ``REMEMBERED``."""

    __slots__ = ("_known", "_order")

    def __init__(self) -> None:
        self._known: set[object] = set()
        self._order: deque[object] = deque()

    def add(self, delivery: Delivery) -> None:
        """Its handler succeeded."""
        key = _key(delivery)
        if len(self._order) >= REMEMBERED:
            self._known.discard(self._order.popleft())
        self._order.append(key)
        self._known.add(key)

    def __contains__(self, delivery: Delivery) -> bool:
        return _key(delivery) in self._known


def _key(delivery: Delivery) -> object:
    return delivery.position or (delivery.message.id, hash(delivery.message.body))
