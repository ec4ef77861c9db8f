"""Operators' policies, and what they do to queues against what their arguments say. Pure.

Where a policy and an argument both set a limit the lower one holds; what no argument says the policy alone decides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from busframe.model.destination import Address
from busframe.model.entity import Change
from busframe_rabbitmq.topology import DELIVERY_LIMIT

_OF_QUORUM_QUEUES = frozenset({"all", "queues", "quorum_queues"})


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies of a virtual host, as the management plugin lists them.

    Attributes:
        users: one for each queue: the matching one of the highest priority.
        operators: one more for each queue, which limits the first.
    """

    users: Sequence[Mapping[str, Any]]
    operators: Sequence[Mapping[str, Any]]

    def of(self, queue: str) -> Iterator[tuple[str, str, Any]]:
        """What is set for a queue: (name of the policy, key, value)."""
        for policies in (self.users, self.operators):
            matching = [policy for policy in policies if _matches(policy, queue)]
            if matching:
                policy = max(matching, key=lambda each: int(each.get("priority", 0)))
                for key, value in dict(policy.get("definition", {})).items():
                    yield str(policy.get("name")), key, value


def _matches(policy: Mapping[str, Any], queue: str) -> bool:
    if policy.get("apply-to", "all") not in _OF_QUORUM_QUEUES:
        return False
    try:
        return re.search(str(policy.get("pattern", "")), queue) is not None
    except re.error:  # Erlang's patterns are nearly Python's
        return False


Purpose = Literal["source", "dead", "delay"]
"""What a queue is for: it is consumed, it holds dead letters, or it holds what is delayed."""


def overriding(address: Address, queue: str, purpose: Purpose, policies: Policies, hold_max_s: float) -> list[Change]:
    """What policies set for a queue that is to be known; a ``conflict`` where it would lose messages.

    Args:
        address: of the source that needs the queue.
        queue: its name on the server.
        purpose: what it is for.
        policies: of the virtual host.
        hold_max_s: how long a handler may hold a message, in seconds.
    """
    changes: list[Change] = []
    for name, key, value in policies.of(queue):
        wanted = _wanted(key, value, purpose, hold_max_s)
        where = f"{key} (policy {name!r}{' for delay queues' if purpose == 'delay' else ''})"
        if wanted is not None:
            changes.append(Change(address, "conflict", where, wanted, value, f"change or remove the policy {name!r}"))
        elif key in ("message-ttl", "max-length", "max-length-bytes"):
            changes.append(Change(address, "unknown", where, None, value))
    return changes


def _wanted(key: str, value: Any, purpose: Purpose, hold_max_s: float) -> str | None:
    """What is needed instead, where a value is harmful."""
    if key == "expires":
        return "no expiry: it deletes a queue that nobody consumes, with its messages"
    if key == "message-ttl" and purpose == "delay":
        return "none: it ends delays early"
    if not isinstance(value, int):
        return None
    if key == "delivery-limit" and purpose == "dead" and value >= 0:
        return "none: it deletes dead letters that were looked at too often"
    if key == "delivery-limit" and purpose == "source" and 0 <= value < DELIVERY_LIMIT:
        return f"at least {DELIVERY_LIMIT}: it is busframe that counts retries"
    if key == "consumer-timeout" and purpose != "delay" and value < hold_max_s * 1000:
        return f"at least {hold_max_s * 1000:.0f}, in milliseconds: for so long handlers may hold messages"
    return None
