"""busframe_rabbitmq.topology"""

from typing import Any

import pytest

from busframe.errors import ConfigurationError
from busframe.logic.names import physical_name
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe_rabbitmq import topology

ORDERS = Topic[Any]("orders")


def test_the_arguments_of_a_queue_are_the_wire_format() -> None:
    """Whatever its policies, a queue is declared alike, or the server refuses it."""
    arguments = topology.wanted_arguments(Entity(Queue("a"), max_attempts=9, longest_delay_s=60), physical_name)
    assert arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 100,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "a--dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_dead_letters_may_be_looked_at_for_ever() -> None:
    """Their queue counts no deliveries, dead-letters nothing, and older servers are not told what they do not know."""
    letters = Entity(ORDERS.subscription("s").dead_letters)
    assert topology.wanted_arguments(letters, physical_name) == {"x-queue-type": "quorum", "x-delivery-limit": -1}
    assert topology.wanted_arguments(letters, physical_name, counts=False) == {"x-queue-type": "quorum"}


@pytest.mark.parametrize(
    ("asked", "single"),
    [
        ({}, False),
        ({"ordering": "key"}, True),
        ({"options": {"single_active_consumer": True}}, True),
    ],
)
def test_order_needs_a_single_active_consumer_from_the_beginning(asked: dict[str, Any], single: bool) -> None:
    """It cannot be added to a queue that exists."""
    arguments = topology.wanted_arguments(Entity(Queue("a"), **asked), physical_name)
    assert (topology.SINGLE_ACTIVE in arguments) is single


def test_order_with_many_active_consumers_is_refused() -> None:
    """Nothing would keep it."""
    asked = Entity(Queue("a"), ordering="key", options={"single_active_consumer": False})
    with pytest.raises(ConfigurationError, match="rules that out"):
        topology.wanted_arguments(asked, physical_name)


def test_unknown_option_is_refused() -> None:
    """A misspelt option is an error, not ignored."""
    with pytest.raises(ConfigurationError, match="single_active"):
        topology.wanted_arguments(Entity(Queue("a"), options={"singel_active": True}), physical_name)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [{}]),
        ({"a": "1"}, [{"a": "1"}]),
        ({"a": ["1", "2", "1"]}, [{"a": "1"}, {"a": "2"}]),
        ({"a": ["1", "2"], "x-b": ["3"]}, [{"a": "1", "x-b": "3"}, {"a": "2", "x-b": "3"}]),
        ({"a": [str(number) for number in range(256)]}, [{"a": str(number)} for number in range(256)]),
    ],
)
def test_one_binding_for_each_combination(where: dict[str, Any], expected: list[dict[str, str]]) -> None:
    """All names must match, one of the values each."""
    made = topology.bindings(ORDERS.subscription("s", where=where))
    assert made == [{"x-match": "all-with-x", **each} for each in expected]


def test_a_filter_with_too_many_combinations_is_refused() -> None:
    """It would take everything, and leave most of it as dead letters."""
    where = {"a": [str(number) for number in range(129)], "b": ["1", "2"]}
    with pytest.raises(ConfigurationError, match=r"orders/s: its filter has 258 combinations of values, .* 256"):
        topology.wanted_arguments(Entity(ORDERS.subscription("s", where=where)), physical_name)


def test_the_servers_texts_are_read() -> None:
    """The argument that differs, the exchange that is missing, the size that is too large."""
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'y.s' in vhost '/': "
        "received the value '5' of type 'signedint' but current is none"
    )
    assert topology.read_inequivalent(text) == ("x-delivery-limit", "the value '5' of type 'signedint'", "none")
    assert topology.read_inequivalent("something else") is None
    assert topology.read_exchange("NOT_FOUND - no exchange 'nope.x' in vhost '/'") == "nope.x"
    denied = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u'"
    assert topology.read_exchange(denied) == ""
    assert topology.read_exchange("something else") is None
    size = "PRECONDITION_FAILED - message size 17825792 is larger than configured max size 16777216"
    assert topology.read_too_large(size) == (17825792, 16777216)
    assert topology.read_too_large("something else") is None
