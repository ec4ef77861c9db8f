"""The frozen values that have nothing but attributes: messages, deliveries, settlements, entities, events, claims."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Queue
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.model.events import Failed, Handled, SourceChanged
from busframe.model.message import NO_HEADERS, DeadLetterInfo, Message
from busframe.model.settlement import ACK, RELEASE, Ack, DeadLetter, Nack, Release

QUEUE = Queue("q")
MESSAGE = Message(b"body", "id")
CLAIMS: dict[str, Any] = {
    "durable": False,
    "confirm": "none",
    "delivery_count": False,
    "attempt_exact": True,
    "nack": "native",
    "dead_letter": "native",
    "ordering": "process",
    "filters": "broker",
}
VALUES = [
    MESSAGE,
    DeadLetterInfo("attempts", None, None, None, 1, None, datetime(2026, 1, 1, tzinfo=UTC), "q", None, "host", 0),
    ACK,
    RELEASE,
    Nack(),
    DeadLetter("rejected"),
    Capabilities(**CLAIMS),
    Entity(QUEUE),
    Change(QUEUE, "create"),
    Stats(),
    Stored("1", MESSAGE, None),
    Finding("ok", "disk", "it is written"),
    Handled(QUEUE, "handle", MESSAGE, 1, 0.1),
    Failed(QUEUE, None, MESSAGE, 1, ValueError(), ACK),
    SourceChanged(QUEUE, "consuming", None),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_do_not_change(value: Any) -> None:
    """What passes between the parts can be shared without a copy: no attribute can be set or added."""
    assert is_dataclass(value)
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)
    assert not hasattr(value, "__dict__")


def test_a_message_needs_no_more_than_a_body_and_an_id() -> None:
    """What was not said is None, and no headers are an empty mapping that nobody can write to."""
    assert (MESSAGE.body, MESSAGE.id, MESSAGE.headers) == (b"body", "id", {})
    assert all(
        getattr(MESSAGE, field.name) is None for field in fields(MESSAGE) if field.name not in ("body", "id", "headers")
    )
    headers: Any = MESSAGE.headers
    with pytest.raises(TypeError):
        headers["x"] = "1"
    assert Outgoing(QUEUE, MESSAGE).carried == Nack().carried == DeadLetter("r").carried == NO_HEADERS == {}


def test_messages_are_equal_by_what_they_say() -> None:
    """Two messages with the same fields are equal, whichever mapping holds their headers."""
    assert MESSAGE == Message(b"body", "id", headers={})
    assert replace(MESSAGE, key="k") != MESSAGE


def test_a_delivery_is_itself() -> None:
    """Two deliveries of one message are two, each settled by itself, and can be counted in a set."""
    one, other = Delivery(MESSAGE, 1, "1", 1, 0), Delivery(MESSAGE, 1, "1", 1, 0)
    assert one != other
    assert len({one, other, one}) == 2


def test_settlements_are_values() -> None:
    """All acknowledgements are the same; delays and reasons make others."""
    assert Ack() == ACK
    assert Release() == RELEASE
    assert len({ACK, RELEASE, Ack(), Release()}) == 2
    assert Nack() == Nack(0.0) != Nack(1.0)
    assert DeadLetter("a", "b") != DeadLetter("a")


def test_a_transport_claims_nothing_by_silence() -> None:
    """What a transport can do must be said: optional claims are off, and the others have no default."""
    claims = Capabilities(**CLAIMS)
    optional = {field.name: getattr(claims, field.name) for field in fields(claims) if field.name not in CLAIMS}
    assert optional.pop("delay_resolution_s") == 0.1
    assert optional.pop("max_message_bytes") is None
    assert not any(optional.values())
    with pytest.raises(TypeError):
        Capabilities(**{name: value for name, value in CLAIMS.items() if name != "durable"})


def test_an_entity_asks_little() -> None:
    """A bare entity is one that nothing handles here; unknown statistics are None."""
    entity = Entity(QUEUE)
    assert (entity.ordering, entity.max_attempts, entity.longest_delay_s, entity.options) == (None, 0, 0.0, {})
    assert entity.longest_handler_s is None
    assert {getattr(Stats(), field.name) for field in fields(Stats)} == {None}
