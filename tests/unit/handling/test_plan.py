from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from busframe import Context, Failure, Message, Nack, Next, Queue, Retry, Router, Topic
from busframe.errors import ConfigurationError
from busframe.handling.handler import Ordering
from busframe.handling.plan import RetryOverride, SourcePlan, plan_sources
from busframe.logic.retry import RetryPolicy
from busframe.model.entity import Entity


class Sown(BaseModel):
    field: str


class Reaped(BaseModel):
    field: str


seeds = Queue("seeds", Sown)
seasons = Topic("seasons", Sown, Reaped)
farm = seasons.subscription("farm")


@dataclass
class Over:
    """What configuration says."""

    concurrency: int | None = None
    prefetch: int | None = None
    timeout_s: float | None = None
    ordering: Ordering | None = None
    retry: RetryOverride | None = None


class Attempts:
    """Configured numbers of a policy."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    def over(self, policy: RetryPolicy, /) -> Retry:
        if not isinstance(policy, Retry):
            raise ConfigurationError("the policy in the code is no Retry")
        return Retry(max_attempts=self.attempts, give_up_on=policy.give_up_on)


async def sow(sown: Sown) -> None:
    """A handler of one type."""


async def reap(reaped: Reaped) -> None:
    """A handler of another."""


async def watch(message: Message) -> None:
    """A catch-all."""


async def around(ctx: Context, call_next: Next) -> object:
    """Middleware."""
    return await call_next()


def planned(router: Router, **named: Any) -> SourcePlan:
    """The only plan, which has no problems."""
    plans, problems = plan_sources(router._handlers(), **named)
    assert problems == []
    (plan,) = plans
    return plan


def problems_of(router: Router, **named: Any) -> list[str]:
    """What is wrong."""
    return plan_sources(router._handlers(), **named)[1]


def test_what_nobody_says_has_a_default() -> None:
    """Ten at once, twice as many ahead, dead letters, no order."""
    router = Router()
    router.handle(seeds)(sow)
    plan = planned(router)
    assert (plan.concurrency, plan.prefetch, plan.ordering, plan.ack) == (10, 20, "none", "after")
    assert (plan.dead_letter, plan.unmatched, plan.expired) == (True, "dead-letter", "dead-letter")
    assert plan.handlers[0].retry == Retry()
    assert not plan.in_place


@pytest.mark.parametrize(
    ("concurrency", "prefetch", "expected"), [(1, None, 10), (4, None, 10), (50, None, 100), (50, 5, 5), (1, 1, 1)]
)
def test_prefetch_follows_concurrency(concurrency: int, prefetch: int | None, expected: int) -> None:
    """Twice the concurrency and at least ten, unless it is said."""
    router = Router()
    options: Any = {} if prefetch is None else {"prefetch": prefetch}
    router.handle(seeds, concurrency=concurrency, **options)(sow)
    assert planned(router).prefetch == expected


def test_one_handler_says_it_for_all() -> None:
    """What belongs to the source is said by any of its handlers."""
    router = Router()
    router.handle(farm, only=Sown)(sow)
    router.handle(farm, only=Reaped, concurrency=3, ordering="key", ack="manual", expired="discard")(reap)
    router.handle(farm, concurrency=3)(watch)
    plan = planned(router)
    assert (plan.concurrency, plan.ordering, plan.ack, plan.expired) == (3, "key", "manual", "discard")
    assert plan.in_place
    assert [handler.name for handler in plan.handlers] == ["sow", "reap", "watch"]


@pytest.mark.parametrize(
    ("option", "one", "other"),
    [
        ("concurrency", 3, 4),
        ("prefetch", 3, 4),
        ("dead_letter", True, False),
        ("ordering", "none", "key"),
        ("ack", "after", "manual"),
        ("unmatched", "discard", "dead-letter"),
        ("expired", "discard", "dead-letter"),
    ],
)
def test_two_values_of_a_source_are_refused(option: str, one: Any, other: Any) -> None:
    """The error names both handlers and both values."""
    router = Router()
    router.handle(farm, only=Sown, **{option: one})(sow)
    router.handle(farm, only=Reaped, **{option: other})(reap)
    (problem,) = problems_of(router)
    assert f"sow says {option}={one!r} and reap says {option}={other!r}" in problem
    assert "let one of them state it" in problem


def test_two_handlers_of_one_name_are_refused() -> None:
    """Configuration and logs could not tell them apart; the error says where both are."""
    router = Router()
    router.handle(seeds)(sow)
    router.handle(farm, only=Sown, unmatched="discard")(sow)
    (problem,) = problems_of(router)
    assert "two handlers are called 'sow' (test_plan.py:" in problem
    assert "say name=" in problem


def test_a_router_that_is_included_twice_is_refused() -> None:
    """Each of its handlers would be there twice."""
    top, router = Router(), Router()
    router.handle(seeds)(sow)
    top.include(router)
    top.include(router)
    assert any("two handlers are called 'sow'" in problem for problem in problems_of(top))


def test_a_type_has_one_handler() -> None:
    """Two handlers of one type on one source are refused, also where one takes a union."""
    router = Router()
    router.handle(seeds)(sow)
    router.handle(seeds, name="sow_again")(sow)
    assert problems_of(router) == ["seeds: sow and sow_again both take 'Sown': one message has one handler"]


def test_everything_has_one_handler() -> None:
    """Two catch-alls on one source are refused; beside handlers of types one is fine."""
    router = Router()
    router.handle(farm, only=Sown)(sow)
    router.handle(farm)(watch)
    assert problems_of(router) == []
    router.handle(farm, name="stare")(watch)
    assert problems_of(router) == ["seasons/farm: watch and stare both take everything: only one may"]


def test_a_topic_wants_to_know_about_the_rest() -> None:
    """Handlers that take fewer types than the topic carries have to say what becomes of the others."""
    router = Router()
    router.handle(farm, only=Sown)(sow)
    (problem,) = problems_of(router)
    assert 'say unmatched="discard" if' in problem
    assert 'unmatched="dead-letter" if they are a mistake' in problem


@pytest.mark.parametrize("unmatched", ["discard", "dead-letter"])
def test_either_answer_about_the_rest_will_do(unmatched: Any) -> None:
    """Said is said, also what is the default."""
    router = Router()
    router.handle(farm, only=Sown, unmatched=unmatched)(sow)
    assert planned(router).unmatched == unmatched


def test_there_is_no_rest() -> None:
    """Nothing has to be said where all types are taken, on a queue, or where none is declared."""
    complete, queue, untyped, caught = Router(), Router(), Router(), Router()
    complete.handle(farm, only=Sown)(sow)
    complete.handle(farm, only=Reaped)(reap)
    queue.handle(Queue("mixed", Sown, Reaped), only=Sown)(sow)
    untyped.handle(Topic("loose").subscription("farm"))(sow)
    caught.handle(farm, only=Sown)(sow)
    caught.handle(farm)(watch)
    for router in (complete, queue, untyped, caught):
        assert problems_of(router) == []


def test_a_subscription_has_one_meaning() -> None:
    """Two filters of one subscription would fight each other on the broker."""
    router = Router()
    router.handle(farm, only=Sown)(sow)
    router.handle(seasons.subscription("farm", where={"field": "north"}), only=Reaped)(reap)
    (problem,) = problems_of(router)
    assert "declared with where=" in problem
    assert "give the other one another name" in problem


def test_dead_letters_cannot_be_lost() -> None:
    """At most once is refused for dead letters; their retries wait in place."""
    router = Router()
    router.handle(seeds.dead_letters, ack="before")(watch)
    (plan,), problems = plan_sources(router._handlers())
    assert problems == ['seeds!dead: ack="before" would lose dead letters: use "after" or "manual"']
    assert plan.in_place


def test_the_strongest_policy_counts() -> None:
    """Configuration before the handler, the handler before the router, the router before the bus."""
    router = Router(retry=Retry(max_attempts=3))
    router.handle(farm, only=Sown, retry=Retry(max_attempts=4, give_up_on=(ValueError,)))(sow)
    router.handle(farm, only=Reaped)(reap)
    bare = Router()
    bare.handle(farm)(watch)
    bare.include(router)
    plan = planned(bare, retry=Retry(max_attempts=2), overrides={"sow": Over(retry=Attempts(7))})
    assert [handler.retry for handler in plan.handlers] == [
        Retry(max_attempts=2),
        Retry(max_attempts=7, give_up_on=(ValueError,)),
        Retry(max_attempts=3),
    ]
    assert plan.unknown_type_retry == Retry(max_attempts=2)
    assert plan.max_attempts == 7


def test_the_bus_is_around_everything() -> None:
    """The bus's middleware is outside the handler's."""
    router = Router()
    router.handle(seeds, middleware=[around])(sow)

    async def outermost(ctx: Context, call_next: Next) -> object:
        return await call_next()

    assert planned(router, middleware=[outermost]).handlers[0].middleware == (outermost, around)


def test_configuration_is_stronger_than_the_code() -> None:
    """What is configured for a handler counts, and what is not stays."""
    router = Router()
    router.handle(seeds, concurrency=3, prefetch=7, timeout_s=1.0)(sow)
    plan = planned(router, overrides={"sow": Over(concurrency=40, ordering="key", timeout_s=9.0), "gone": Over(1)})
    assert (plan.concurrency, plan.prefetch, plan.ordering) == (40, 7, "key")
    assert plan.handlers[0].timeout_s == 9.0
    assert planned(router, overrides={"sow": Over()}).handlers[0].timeout_s == 1.0
    assert planned(router, overrides={"sow": Over(prefetch=1)}).prefetch == 1


def test_two_configured_values_of_a_source_are_refused() -> None:
    """Neither handler's table is stronger than the other's."""
    router = Router()
    router.handle(farm, only=Sown)(sow)
    router.handle(farm, only=Reaped)(reap)
    assert problems_of(router, overrides={"sow": Over(concurrency=2), "reap": Over(concurrency=2)}) == []
    (problem,) = problems_of(router, overrides={"sow": Over(concurrency=2), "reap": Over(concurrency=3)})
    assert "concurrency = 2 for sow and concurrency = 3 for reap" in problem
    assert "say it for one of its handlers" in problem


def test_a_policy_of_ones_own_has_no_numbers_to_configure() -> None:
    """The problem says which handler's table is wrong."""
    router = Router()
    router.handle(seeds, retry=lambda failure: Nack(1.0))(sow)
    (problem,) = problems_of(router, overrides={"sow": Over(retry=Attempts(3))})
    assert problem == "[handlers.sow] retry: the policy in the code is no Retry"


def test_a_transport_is_told_the_longest_of_everything() -> None:
    """What a source needs on the broker covers each of its handlers."""
    router = Router()
    router.handle(farm, only=Sown, timeout_s=5.0, retry=Retry(max_attempts=9, delay_s=8, factor=1, jitter=0))(sow)
    router.handle(farm, only=Reaped, timeout_s=7.0, retry=Retry(max_attempts=2, delay_s=3, jitter=0))(reap)
    assert planned(router, retry=Retry(max_attempts=1)).entity == Entity(farm, "none", 9, 8.0, 7.0)


def test_a_transport_is_told_what_nobody_knows() -> None:
    """One handler without a time-out may run for ever; a policy of one's own may ask any delay."""

    def own(failure: Failure) -> Nack:
        return Nack(1.0)

    router = Router()
    router.handle(farm, only=Sown, timeout_s=5.0, retry=own)(sow)
    router.handle(farm, only=Reaped)(reap)
    plan = planned(router)
    assert plan.longest_delay_s is None
    assert plan.entity == Entity(farm, "none", 100, 0.0, None)


def test_what_waits_in_place_needs_no_delay_of_the_broker() -> None:
    """With an order of keys the delay is the lane's."""
    router = Router()
    router.handle(seeds, ordering="key")(sow)
    assert planned(router).entity == Entity(seeds, "key", 5, 0.0, None)


def test_plans_come_in_order_of_registration() -> None:
    """One plan for each source, in the order in which the sources were first handled."""
    router = Router()
    router.handle(farm, only=Sown, name="a")(sow)
    router.handle(seeds, name="b")(sow)
    router.handle(farm, only=Reaped, name="c")(reap)
    plans, _ = plan_sources(router._handlers())
    assert [(plan.source, [handler.name for handler in plan.handlers]) for plan in plans] == [
        (farm, ["a", "c"]),
        (seeds, ["b"]),
    ]
