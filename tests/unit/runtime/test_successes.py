"""The memory of successes."""

from dataclasses import replace

from busframe.model.delivery import Delivery
from busframe.model.message import Message
from busframe.runtime.successes import REMEMBERED, Successes


def delivery(id: str, *, body: bytes = b"x", position: str = "") -> Delivery:
    """One that a receiver has got."""
    return Delivery(message=Message(body, id), receipt=None, position=position, deliveries=1, generation=1)


def test_a_redelivery_is_known_by_its_position_or_else_by_id_and_body() -> None:
    """An id alone may be used twice; a position is the broker's own word."""
    successes = Successes()
    successes.add(delivery("a"))
    successes.add(delivery("b", position="7"))
    assert replace(delivery("a"), deliveries=2) in successes
    assert delivery("a", body=b"y") not in successes
    assert delivery("other", position="7") in successes
    assert delivery("b") not in successes


def test_it_is_bounded() -> None:
    """The oldest is forgotten first."""
    successes = Successes()
    for number in range(REMEMBERED + 1):
        successes.add(delivery(str(number)))
    assert delivery("0") not in successes
    assert delivery("1") in successes
    assert delivery(str(REMEMBERED)) in successes
