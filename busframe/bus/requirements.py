"""What an application asks of a transport, against what the transport claims. Refused at start, all in one error."""

from collections.abc import Iterable, Sequence

from busframe.handling.plan import SourcePlan
from busframe.model.capabilities import Capabilities
from busframe.model.destination import Subscription
from busframe.model.entity import Entity


def unmet(
    plans: Sequence[SourcePlan],
    entities: Iterable[Entity],
    claims: Capabilities,
    transport: str,
    max_lane_delay_s: float,
) -> list[str]:
    """What the transport cannot do of what is asked, each with what to do."""
    problems: list[str] = []
    for plan in plans:
        problems += _of_plan(plan, claims, transport, max_lane_delay_s)
    for entity in entities:
        address = entity.address
        if isinstance(address, Subscription):
            if address.start != "latest" and not claims.start:
                problems.append(
                    f"{address}: start={address.start!r}, but {transport} begins subscriptions at their declaration: "
                    "leave start out"
                )
            if address.temporary and not claims.temporary:
                problems.append(f"{address}: temporary=True, but {transport} has no temporary subscriptions")
    return problems


def _of_plan(plan: SourcePlan, claims: Capabilities, transport: str, max_lane_delay_s: float) -> list[str]:
    problems: list[str] = []
    longest = plan.longest_delay_s
    if plan.ordering == "key":
        if claims.ordering == "none":
            why = claims.why_not.get("ordering", f"{transport} keeps no order")
            problems.append(f'{plan.source}: ordering="key", but {why}: leave it out')
        held = min(max_lane_delay_s, claims.hold_max_s)
        if longest is None:
            problems.append(
                f'{plan.source}: ordering="key" holds a key through its retries, so its policy must say how long: '
                "give the policy a longest_delay_s, or use Retry"
            )
        elif longest > held:
            problems.append(
                f"{plan.source}: a retry after {longest:g} s would hold its key longer than the {held:g} s that are "
                f"allowed: lower max_delay_s, or raise max_lane_delay_s where {transport} holds messages so long"
            )
    elif not plan.in_place and longest is not None and longest > claims.nack_delay_max_s:
        problems.append(
            f"{plan.source}: a retry after {longest:g} s, but {transport} delays by at most "
            f"{claims.nack_delay_max_s:g} s: lower max_delay_s"
        )
    return problems
