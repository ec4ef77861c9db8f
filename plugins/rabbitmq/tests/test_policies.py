"""busframe_rabbitmq.policies"""

from typing import Any

import pytest

from busframe.model.destination import Queue
from busframe_rabbitmq.policies import Policies, Purpose, overriding

EMAILS = Queue[Any]("emails")


def policy(name: str, pattern: str, priority: int = 0, to: str = "all", **definition: Any) -> dict[str, Any]:
    """One as the management plugin lists it."""
    keys = {key.replace("_", "-"): value for key, value in definition.items()}
    return {"name": name, "pattern": pattern, "apply-to": to, "priority": priority, "definition": keys}


def test_the_highest_priority_holds_and_an_operators_besides() -> None:
    """As the server chooses: one of each kind for a queue."""
    users = [policy("low", "", 1, max_length=1), policy("high", "^em", 2, expires=5), policy("other", "^x", 3, a=1)]
    operators = [policy("limit", "mail", max_length=9)]
    assert list(Policies(users, operators).of("emails")) == [("high", "expires", 5), ("limit", "max-length", 9)]


@pytest.mark.parametrize(("to", "counts"), [("all", 1), ("queues", 1), ("quorum_queues", 1), ("streams", 0)])
def test_only_what_is_for_quorum_queues_counts(to: str, counts: int) -> None:
    """Not exchanges, classic queues and streams; a pattern that is none here matches nothing."""
    found = Policies([policy("p", "emails", to=to, expires=1), policy("odd", "(", to=to, a=1)], []).of("emails")
    assert len(list(found)) == counts


@pytest.mark.parametrize(
    ("purpose", "key", "value", "action"),
    [
        ("source", "delivery-limit", 99, "conflict"),
        ("source", "delivery-limit", 100, None),
        ("source", "delivery-limit", -1, None),
        ("dead", "delivery-limit", 1000, "conflict"),
        ("dead", "delivery-limit", -1, None),
        ("delay", "delivery-limit", 1, None),
        ("source", "expires", 10**9, "conflict"),
        ("dead", "expires", 10**9, "conflict"),
        ("delay", "expires", 10**9, "conflict"),
        ("source", "consumer-timeout", 1_499_999, "conflict"),
        ("source", "consumer-timeout", 1_500_000, None),
        ("source", "message-ttl", 1000, "unknown"),
        ("delay", "message-ttl", 1000, "conflict"),
        ("source", "max-length", 1000, "unknown"),
        ("dead", "max-length-bytes", 1000, "unknown"),
        ("source", "overflow", "drop-head", None),  # an argument says it, and goes before
        ("source", "delivery-limit", "much", None),
    ],
)
def test_what_would_lose_messages_is_a_conflict(purpose: Purpose, key: str, value: Any, action: str | None) -> None:
    """What only limits a queue is told."""
    policies = Policies([policy("p", "", **{key.replace("-", "_"): value})], [])
    changes = overriding(EMAILS, "emails", purpose, policies, 1500.0)
    assert [change.action for change in changes] == ([action] if action else [])
    for change in changes:
        assert str(change.property).startswith(f"{key} (policy 'p'")
        assert change.found == value
