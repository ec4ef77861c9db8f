import itertools
from typing import Any

import pytest
from pydantic import BaseModel

from busframe import Bus, Context, Next, Queue, Retry, Router, Topic
from busframe.errors import ConfigurationError, HandlerSignatureError
from busframe.handling.handler import Handler
from busframe.middleware import Logging


class Ticket(BaseModel):
    seat: int


tickets = Queue("tickets", Ticket)
refunds = Queue("refunds", Ticket)


async def sell(ticket: Ticket) -> None:
    """A handler."""


async def outer(ctx: Context, call_next: Next) -> object:
    """Middleware that does nothing."""
    return await call_next()


async def inner(ctx: Context, call_next: Next) -> object:
    """Other middleware that does nothing."""
    return await call_next()


def handlers(router: Router) -> list[Handler]:
    """What is registered."""
    return list(router._handlers())


def names(router: Router) -> list[str]:
    """The names of what is registered."""
    return [handler.name for handler in handlers(router)]


def test_the_function_comes_back_as_it_was() -> None:
    """A registered function can be called in tests, and be registered again for another source."""
    router = Router()
    assert router.handle(tickets)(sell) is sell
    assert router.handle(refunds, name="refund")(sell) is sell
    assert names(router) == ["sell", "refund"]


def test_a_handler_has_what_was_said_of_it() -> None:
    """What belongs to the handler and what belongs to its source are kept apart."""
    router, policy = Router(), Retry(max_attempts=2)
    router.handle(tickets, retry=policy, timeout_s=3, middleware=[outer], concurrency=4, ack="manual")(sell)
    (handler,) = handlers(router)
    assert (handler.fn, handler.source, handler.retry, handler.timeout_s) == (sell, tickets, policy, 3)
    assert handler.middleware == (outer,)
    assert handler.options == {"concurrency": 4, "ack": "manual"}
    assert handler.where.startswith("test_router.py:")


def test_a_name_is_said_where_there_is_none() -> None:
    """A lambda or an object has no name that configuration could write."""
    router = Router()

    class Seller:
        async def __call__(self, ticket: Ticket) -> None: ...

    for nameless in (lambda ticket: None, Seller()):
        with pytest.raises(HandlerSignatureError, match="has no name: say name="):
            router.handle(tickets)(nameless)
        router.handle(tickets, name="seller")(nameless)
    assert handlers(router)[-1].where == ""


def test_a_routers_name_stands_before_its_handlers() -> None:
    """Names of nested routers are joined; a router without a name adds nothing."""
    top, middle, plain = Router("hall"), Router("desk"), Router()
    middle.handle(tickets)(sell)
    plain.include(middle)
    top.include(plain)
    top.handle(refunds, name="refund")(sell)
    assert names(top) == ["hall.desk.sell", "hall.refund"]
    assert names(middle) == ["desk.sell"]


def test_a_router_gives_what_its_handlers_leave_out() -> None:
    """The nearest policy wins; middleware of all is around the handler, the outermost router's first."""
    near, far, own = Retry(max_attempts=2), Retry(max_attempts=3), Retry(max_attempts=4)
    top, middle = Router(middleware=[outer], retry=far), Router(middleware=[inner], retry=near)
    middle.handle(tickets, middleware=[outer])(sell)
    middle.handle(tickets, retry=own, name="own")(sell)
    plain = Router(middleware=(inner,))
    plain.handle(tickets, name="plain")(sell)
    top.include(middle)
    top.include(plain)
    assert [handler.retry for handler in handlers(top)] == [near, own, far]
    assert [handler.middleware for handler in handlers(top)] == [(outer, inner, outer), (outer, inner), (outer, inner)]


def test_what_is_registered_later_counts() -> None:
    """A router may be included before its handlers are registered."""
    top, late = Router("top"), Router()
    top.include(late)
    assert names(top) == []
    late.handle(tickets)(sell)
    assert names(top) == ["top.sell"]


def test_one_router_may_be_part_of_two() -> None:
    """An application and its tests may each include the same router."""
    shared = Router("shared")
    shared.handle(tickets)(sell)
    for name in ("one", "two"):
        top = Router(name)
        top.include(shared)
        assert names(top) == [f"{name}.shared.sell"]


def test_a_circle_is_refused() -> None:
    """A router may not include itself, neither directly nor through others."""
    first, second, third = Router("first"), Router("second"), Router("third")
    first.include(second)
    second.include(third)
    for inside, outside in itertools.combinations_with_replacement((first, second, third), 2):
        with pytest.raises(ConfigurationError, match="includes itself"):
            outside.include(inside)
    assert names(first) == []


def test_only_routers_are_included() -> None:
    """A bus would lose its own middleware and policy; anything else has no handlers."""
    for wrong in (Bus(), tickets, sell, None):
        with pytest.raises(ConfigurationError, match="put the handlers into a Router"):
            Router().include(wrong)  # type: ignore[arg-type]


def test_only_sources_are_handled() -> None:
    """A topic is told to be subscribed to; what is neither is named."""
    router = Router()
    with pytest.raises(ConfigurationError, match="handle one of its subscriptions"):
        router.handle(Topic("events"))  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="'tickets' cannot be handled: give a queue"):
        router.handle("tickets")  # type: ignore[call-overload]


def test_unknown_options_are_refused() -> None:
    """A misspelt option is named, and all that there are."""
    with pytest.raises(ConfigurationError) as error:
        Router().handle(tickets, concurency=3, acks="manual")  # type: ignore[call-overload]
    assert "unknown options acks, concurency; there are ack, concurrency" in str(error.value)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("name", ""),
        ("name", 7),
        ("concurrency", 0),
        ("concurrency", True),
        ("concurrency", 2.0),
        ("prefetch", -1),
        ("prefetch", "10"),
        ("timeout_s", 0),
        ("timeout_s", "10"),
        ("timeout_s", float("nan")),
        ("dead_letter", "no"),
        ("dead_letter", 0),
        ("ordering", "total"),
        ("ordering", None),
        ("ack", "auto"),
        ("ack", []),
        ("unmatched", "drop"),
        ("expired", "dead_letter"),
        ("retry", 5),
        ("retry", Retry),
        ("middleware", outer),
        ("middleware", [Logging]),
        ("middleware", ["outer"]),
        ("middleware", None),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, wrong: Any) -> None:
    """The error names the source, the option, what it may be, and what it is."""
    with pytest.raises(ConfigurationError) as error:
        Router().handle(tickets, **{option: wrong})
    assert str(error.value).startswith(f"handler of tickets: {option} must be ")
    assert str(error.value).endswith(f"not {wrong!r}")


def test_all_wrong_options_are_said_at_once() -> None:
    """One error has every problem."""
    with pytest.raises(ConfigurationError) as error:
        Router().handle(tickets, concurrency=0, ack="auto")  # type: ignore[call-overload]
    assert len(error.value.problems) == 2


def test_options_may_say_nothing() -> None:
    """None for a time-out or a policy is as good as leaving it out."""
    router = Router(retry=None)
    router.handle(tickets, timeout_s=None, retry=None, middleware=())(sell)  # type: ignore[call-overload]
    assert handlers(router)[0].timeout_s is None


@pytest.mark.parametrize(("option", "wrong"), [("retry", 5), ("retry", Retry), ("middleware", outer)])
def test_a_routers_own_options_are_checked(option: str, wrong: Any) -> None:
    """A router is refused where its handlers would fail later."""
    with pytest.raises(ConfigurationError, match=f"router 'desk': {option} must be "):
        Router("desk", **{option: wrong})


def test_a_refused_function_is_not_registered() -> None:
    """After an error nothing of the handler is left."""

    async def unfilled(ticket: Ticket, pool: int) -> None: ...

    router = Router()
    with pytest.raises(HandlerSignatureError):
        router.handle(tickets)(unfilled)
    assert names(router) == []
