import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from busframe import Context, Message, Queue, Reject, RetryAfter, SyncContext
from busframe.errors import AlreadySettled, ClosedError, ConfigurationError, PublishFailed
from busframe.handling.context import Verb
from tests.unit.handling.transport import Kept, outlet

loose: Queue[Any] = Queue("loose")


def context(kept: Kept, message: Message | None = None, verb: Verb | None = None) -> Context:
    """What a handler is given."""
    return Context(message or Message(b"", "m"), loose, "clean", 2, True, {"pool": 1}, outlet(kept), verb)


def test_a_context_says_what_is_handled() -> None:
    """Its facts are attributes, and its text names them."""
    ctx = context(Kept())
    assert (ctx.message.id, ctx.source, ctx.handler, ctx.attempt, ctx.redelivered) == ("m", loose, "clean", 2, True)
    assert ctx.state == {"pool": 1}
    assert repr(ctx) == "<Context loose m attempt 2>"


async def test_what_a_handler_publishes_belongs_to_its_message() -> None:
    """The correlation id is the message's, or its id where it begins something; said otherwise it is that."""
    kept = Kept()
    first, later = context(kept), context(kept, Message(b"", "m", correlation_id="c"))
    assert (await first.publish(loose, 1)).correlation_id == "m"
    assert (await later.publish(loose, 1)).correlation_id == "c"
    assert (await later.publish(loose, 1, correlation_id="own")).correlation_id == "own"
    assert [sent.correlation_id for sent in await later.publish_many(loose, [1, 2])] == ["c", "c"]
    assert (await first.publish(loose, Message(b"", "x", correlation_id="old"))).correlation_id == "m"


async def test_the_verbs_say_what_becomes_of_the_message() -> None:
    """Each passes one outcome on; a delay is never negative."""
    outcomes: list[Any] = []

    async def verb(outcome: RetryAfter | Reject | None) -> None:
        outcomes.append(outcome)

    ctx = context(Kept(), verb=verb)
    await ctx.ack()
    await ctx.nack()
    await ctx.nack(delay_s=-3)
    await ctx.nack(4)
    await ctx.reject("why")
    assert outcomes[0] is None
    assert [outcome.delay_s for outcome in outcomes[1:4]] == [0, 0, 4]
    assert isinstance(outcomes[4], Reject)
    assert outcomes[4].reason == "why"


async def test_the_verbs_need_to_be_asked_for() -> None:
    """Without ``ack="manual"`` the error says how to register the handler."""
    ctx = context(Kept())
    for verb in (ctx.ack, ctx.nack, lambda: ctx.reject("why")):
        with pytest.raises(ConfigurationError, match='register it with ack="manual"'):
            await verb()


async def test_a_plain_function_publishes_from_its_thread() -> None:
    """The same message, the same correlation; every option goes through."""
    kept = Kept()
    sync = SyncContext(context(kept), asyncio.get_running_loop())
    sent = await asyncio.to_thread(sync.publish, loose, 1, key="k", headers={"a": "b"}, timeout_s=3.0, id="x")
    assert (sent.id, sent.key, sent.headers, sent.correlation_id) == ("x", "k", {"a": "b"}, "m")
    assert kept.timeouts == [3.0]
    sync.close()
    assert repr(sync) == "<SyncContext loose m attempt 2>"


async def test_many_are_read_in_the_thread_that_publishes_them() -> None:
    """A generator may wait for its database, or publish itself, and blocks nobody else's loop."""
    kept = Kept()
    sync = SyncContext(context(kept), asyncio.get_running_loop())
    threads: set[int] = set()

    def bodies() -> Iterator[int]:
        for number in range(1500):
            threads.add(threading.get_ident())
            if number == 3:
                sync.publish(loose, "from inside")
            yield number

    sent = await asyncio.to_thread(sync.publish_many, loose, bodies(), keys=str)
    assert threading.get_ident() not in threads
    assert [message.key for message in sent] == [str(number) for number in range(1500)]
    assert [len(call) for call in kept.calls] == [1, 1000, 500]


async def test_many_from_a_thread_say_what_was_confirmed() -> None:
    """A later window's failure counts the windows before it."""
    sync = SyncContext(
        context(Kept(lambda out: PublishFailed("full") if out.message.body == b"1200" else None)),
        asyncio.get_running_loop(),
    )
    with pytest.raises(PublishFailed) as error:
        await asyncio.to_thread(sync.publish_many, loose, range(1500))
    assert error.value.__notes__ == [
        "of its window 1 messages failed and 499 were confirmed",
        "1000 messages before these were confirmed",
    ]


async def test_the_verbs_of_a_plain_function_wait() -> None:
    """They return when the loop has done it, and raise what it raised."""
    outcomes: list[Any] = []

    async def verb(outcome: RetryAfter | Reject | None) -> None:
        if outcomes:
            raise AlreadySettled("twice")
        await asyncio.sleep(0)
        outcomes.append(outcome)

    sync = SyncContext(context(Kept(), verb=verb), asyncio.get_running_loop())
    await asyncio.to_thread(sync.ack)
    assert outcomes == [None]
    for again in (sync.ack, sync.nack, lambda: sync.reject("why")):
        with pytest.raises(AlreadySettled):
            await asyncio.to_thread(again)


def test_a_thread_that_outlives_its_worker_is_told() -> None:
    """When the loop is closed, publishing raises an error of this package."""
    loop = asyncio.new_event_loop()
    sync = SyncContext(context(Kept()), loop)
    loop.close()
    with pytest.raises(ClosedError, match="the worker has ended"):
        sync.publish(loose, 1)
