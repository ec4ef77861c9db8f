"""Retry policies and what they ask of a transport, in words and as data."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from busframe.logic.retry import Retry, RetryPolicy
from busframe.model.destination import Subscription

if TYPE_CHECKING:
    from busframe.handling.plan import SourcePlan


def retry_text(policy: RetryPolicy | None) -> str:
    """A policy on one line: ``5 attempts, after 1, 2, 4, 8 s``; without jitter."""
    if policy is None:
        return "-"
    if not isinstance(policy, Retry):
        return _name(policy)
    retries = policy.max_attempts - 1
    delays = [f"{policy.delay_after(attempt, 0.0):g}" for attempt in (*range(1, min(retries, 4) + 1), max(retries, 1))]
    if not retries:
        text = "1 attempt"
    elif delays[0] == delays[-1]:
        text = f"{policy.max_attempts} attempts, {delays[0]} s between them"
    else:
        listed = ", ".join(delays[:-1]) if retries <= 4 else f"{', '.join(delays[:3])}, … {delays[-1]}"
        text = f"{policy.max_attempts} attempts, after {listed} s"
    age = f", for {policy.max_age_s:g} s" if policy.max_age_s is not None else ""
    rules = f", {len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}" if policy.rules else ""
    return f"{text}{age}{rules}"


def retry_data(policy: RetryPolicy | None) -> object:
    """A policy for JSON: its numbers, the names of its exceptions; of a function its name."""
    if policy is None:
        return None
    if not isinstance(policy, Retry):
        return _name(policy)
    data: dict[str, Any] = {field.name: getattr(policy, field.name) for field in fields(policy)}
    data["give_up_on"] = [kind.__name__ for kind in policy.give_up_on]
    data["rules"] = {kind.__name__: retry_data(rule) for kind, rule in policy.rules.items()}
    return data


def needs(plan: SourcePlan) -> list[tuple[str, str]]:
    """What a source asks of a transport beyond the common: (capability, why)."""
    needed: list[tuple[str, str]] = []
    longest = plan.longest_delay_s
    if plan.ordering == "key":
        needed.append(("ordering", 'ordering="key"'))
        if longest:
            needed.append((f"hold_max_s ≥ {longest:g}", "a retry holds its key in the lane"))
    elif longest and not plan.in_place:
        needed.append((f"nack_delay_max_s ≥ {longest:g}", "the longest delay of its retries"))
    if isinstance(plan.source, Subscription):
        if plan.source.start != "latest":
            needed.append(("start", f"start={plan.source.start}"))
        if plan.source.temporary:
            needed.append(("temporary", "temporary=True"))
    return needed


def _name(policy: object) -> str:
    return str(getattr(policy, "__qualname__", None) or type(policy).__qualname__)
