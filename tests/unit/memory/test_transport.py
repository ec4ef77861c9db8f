"""One client: publishing, looking, opening and closing."""

import asyncio
import threading
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from busframe.errors import (
    ClosedError,
    DestinationNotFound,
    InvalidSettings,
    MessageTooLarge,
    TransportError,
    Unsupported,
)
from busframe.logic.dead_letter import broker_made, read_dead_letter
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.spi import ACK, Address, DeadLetter, Entity, Message, Nack, Outgoing, Queue, Stats, Topic
from tests.unit.memory.conftest import Declare, Open, Send
from tests.unit.memory.virtual import START, VirtualClock, host, settle_down

JOBS = Queue("jobs")
NEWS = Topic("news")


async def stored(transport: MemoryTransport, source: Any) -> list[str]:
    """The ids of what is stored, in order."""
    return [item.message.id for item in await transport.browse(source)]


async def test_every_field_of_a_message_survives(transport: MemoryTransport, declare: Declare, receiver: Open) -> None:
    """A message is received as it was published, but for `dead`, which is not the application's to say."""
    await declare(JOBS)
    message = Message(
        bytes(range(256)),
        "id",
        type="Order",
        content_type="application/json",
        headers={"ä": "ö", "B": ""},
        key="k",
        correlation_id="c",
        reply_to="r",
        published_at=datetime(2025, 1, 2, tzinfo=UTC),
        ttl_s=1.5,
        dead=read_dead_letter(broker_made("expired", "jobs", "2025-01-01T00:00:00Z")),
    )
    assert all(getattr(message, field.name) is not None for field in fields(Message))
    await transport.publish([Outgoing(JOBS, message, carried={"bf-x": "y"})], timeout_s=1)
    (delivery,) = await (await receiver(JOBS)).receive(1)
    assert delivery.message == replace(message, dead=None)
    assert delivery.carried == {"bf-x": "y"}


async def test_a_missing_destination_is_said(transport: MemoryTransport, declare: Declare) -> None:
    """Publishing to what does not exist, or is of another kind, fails for that message alone."""
    await declare(JOBS, NEWS)
    targets: list[Address] = [Queue("nowhere"), JOBS, Queue("news"), Topic("jobs"), NEWS.subscription("s"), NEWS]
    outcomes = await transport.publish([Outgoing(to, Message(b"", f"m-{to}")) for to in targets], timeout_s=1)
    assert [type(outcome) for outcome in outcomes] == [
        DestinationNotFound,
        type(None),
        DestinationNotFound,
        DestinationNotFound,
        DestinationNotFound,
        type(None),
    ]
    assert isinstance(outcomes[0], DestinationNotFound)
    assert (outcomes[0].destination, outcomes[0].message_id) == ("nowhere", "m-nowhere")


async def test_each_subscription_gets_a_copy(transport: MemoryTransport, declare: Declare, send: Send) -> None:
    """A topic's message is stored for each subscription that exists, and settling one copy leaves the others."""
    early, late = NEWS.subscription("early"), NEWS.subscription("late")
    await declare(NEWS, early)
    await send(NEWS, "a")
    await declare(late)
    await send(NEWS, "b")
    assert await stored(transport, early) == ["a", "b"]
    assert await stored(transport, late) == ["b"]


async def test_the_filter_is_judged_when_it_is_published(transport: MemoryTransport, declare: Declare) -> None:
    """A subscription gets the messages that its stored filter takes at that moment."""

    async def send(id: str, **headers: str) -> None:
        assert await transport.publish([Outgoing(NEWS, Message(b"", id, headers=headers))], timeout_s=1) == [None]

    await declare(NEWS.subscription("s", where={"lang": ["de", "en"], "kind": "x"}))
    await send("both", lang="de", kind="x")
    await send("one", lang="de")
    await send("other", lang="fr", kind="x")
    await declare(NEWS.subscription("s", where={"lang": "fr"}))
    await send("wider", lang="fr")
    assert await stored(transport, NEWS.subscription("s")) == ["both", "wider"]


async def test_a_copy_reaches_its_subscription_alone(transport: MemoryTransport, declare: Declare, send: Send) -> None:
    """What is published to a subscription, or to dead letters, is seen by no other, whatever the filter says."""
    one, two = NEWS.subscription("one", where={"lang": "de"}), NEWS.subscription("two")
    await declare(one, two)
    await send(one, "a")
    await send(two.dead_letters, "b")
    assert await stored(transport, one) == ["a"]
    assert await stored(transport, two) == []
    assert await stored(transport, two.dead_letters) == ["b"]


async def test_a_delayed_message_goes_to_who_subscribes_now(
    clock: VirtualClock, transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """A delayed message reaches the subscriptions that exist when it is published, and no later one."""
    early, late = NEWS.subscription("early"), NEWS.subscription("late")
    await declare(early)
    await send(NEWS, "a", delay_s=5)
    await declare(late)
    waiting = asyncio.ensure_future((await receiver(early)).receive(1))
    await clock.advance(5)
    assert (await waiting)[0].message.id == "a"
    assert await stored(transport, late) == []


async def test_a_second_write_of_one_key_is_stored_once(
    clock: VirtualClock, transport: MemoryTransport, declare: Declare
) -> None:
    """Within the window one key is stored once in one destination; a copy with a key of its own is another write."""
    other = Queue("other")
    await declare(JOBS, other)
    message = Message(b"", "m")
    for to, key in ((JOBS, ""), (JOBS, "m"), (JOBS, "m/1"), (JOBS, ""), (other, "")):
        assert await transport.publish([Outgoing(to, message, dedup_key=key)], timeout_s=1) == [None]
    assert await stored(transport, JOBS) == ["m", "m"]
    assert await stored(transport, other) == ["m"]
    await clock.advance(transport.capabilities.dedup_window_s)
    await transport.publish([Outgoing(JOBS, message)], timeout_s=1)
    assert await stored(transport, JOBS) == ["m", "m", "m"]


async def test_what_failed_was_not_written(transport: MemoryTransport, declare: Declare) -> None:
    """A publish that failed can be repeated with the same id."""
    outgoing = Outgoing(JOBS, Message(b"", "m"))
    assert isinstance((await transport.publish([outgoing], timeout_s=1))[0], DestinationNotFound)
    await declare(JOBS)
    assert await transport.publish([outgoing], timeout_s=1) == [None]
    assert await stored(transport, JOBS) == ["m"]


async def test_the_limit_is_what_is_claimed(clock: VirtualClock) -> None:
    """A message of the claimed size is taken and one byte more is refused, which leaves the client usable."""
    transport = MemoryTransport(host(clock), max_message_bytes=50 * 1024)
    await transport.open()
    await transport.apply(await transport.plan([Entity(JOBS)]))
    limit = transport.capabilities.max_message_bytes
    assert limit == 2 * 1024
    bodies = [bytes(limit - 2), bytes(limit - 1), b""]
    outcomes = await transport.publish(
        [Outgoing(JOBS, Message(body, str(number), headers={"a": "b"})) for number, body in enumerate(bodies)],
        timeout_s=1,
    )
    refused = outcomes[1]
    assert outcomes == [None, refused, None]
    assert isinstance(refused, MessageTooLarge)
    assert (refused.size, refused.limit, refused.message_id) == (limit + 1, limit, "1")
    await transport.close()


async def test_publishing_lets_others_run(transport: MemoryTransport, declare: Declare, send: Send) -> None:
    """A loop that only publishes does not keep the event loop for itself."""
    await declare(JOBS)
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    for number in range(100):
        await send(JOBS, str(number))
    assert ran.is_set()


async def test_browsing_takes_nothing(transport: MemoryTransport, declare: Declare, receiver: Open, send: Send) -> None:
    """Stored messages can be looked at page by page, held and delayed ones too, and nothing changes by it."""
    await declare(JOBS)
    await send(JOBS, "a", "b")
    await send(JOBS, "c", delay_s=60)
    jobs = await receiver(JOBS)
    (held,) = await jobs.receive(1)
    page = await transport.browse(JOBS, limit=2)
    assert [item.message.id for item in page] == ["a", "b"]
    assert page[0].position == held.position
    assert page[0].enqueued_at == datetime.fromtimestamp(START, UTC)
    assert [item.message.id for item in await transport.browse(JOBS, after=page[-1].position)] == ["c"]
    (b,) = await jobs.receive(10)
    assert b.deliveries == 1


async def test_a_position_is_what_browse_returned(transport: MemoryTransport, declare: Declare) -> None:
    """Nonsense for a position is refused when browsing and removes nothing when removing."""
    await declare(JOBS)
    with pytest.raises(TransportError, match="no position"):
        await transport.browse(JOBS, after="x")
    assert await transport.remove(JOBS, ["x", "9" * 5000, "1"]) == 0


async def test_removing_by_position(transport: MemoryTransport, declare: Declare, receiver: Open, send: Send) -> None:
    """Removing is idempotent, says how many were there, and who holds one of them cannot settle it any more."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c")
    jobs = await receiver(JOBS)
    (held,) = await jobs.receive(1)
    a, b, _ = await transport.browse(JOBS)
    assert await transport.remove(JOBS, [a.position, b.position, a.position]) == 2
    assert await transport.remove(JOBS, [a.position]) == 0
    assert await transport.stats(JOBS) == Stats(1, 0, 0.0, 1, 0)
    (outcome,) = await jobs.settle([(held, ACK)])
    assert outcome is not None
    assert [delivery.message.id for delivery in await jobs.receive(10)] == ["c"]


async def test_removing_what_blocks_a_key_lets_the_next_come(
    transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """A waiting receiver gets the next message of a key when the one before it is removed."""
    await declare(JOBS, ordering="key")
    await send(JOBS, "a", "b", key="k")
    jobs = await receiver(JOBS, ordering="key")
    (held,) = await jobs.receive(10)
    waiting = asyncio.ensure_future(jobs.receive(10))
    await settle_down()
    assert await transport.remove(JOBS, [held.position]) == 1
    assert [delivery.message.id for delivery in await waiting] == ["b"]


async def test_purging(transport: MemoryTransport, declare: Declare, receiver: Open, send: Send) -> None:
    """Purging removes everything of one source, held and delayed ones too, and nothing of another."""
    await declare(JOBS)
    await send(JOBS, "a", "b")
    await send(JOBS, "c", delay_s=5)
    await send(JOBS.dead_letters, "d")
    jobs = await receiver(JOBS)
    (held,) = await jobs.receive(1)
    assert await transport.purge(JOBS) == 3
    assert (await jobs.settle([(held, Nack())]))[0] is not None
    assert await stored(transport, JOBS) == []
    assert await stored(transport, JOBS.dead_letters) == ["d"]


async def test_stats(
    clock: VirtualClock, transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """Statistics count what waits, what is held, who consumes and what is dead."""
    await declare(JOBS)
    assert await transport.stats(JOBS) == Stats(0, 0, 0.0, 0, 0)
    await send(JOBS, "a", "b", "c")
    await clock.advance(7)
    await send(JOBS, "d", delay_s=5)
    jobs = await receiver(JOBS)
    a, _ = await jobs.receive(2)
    await jobs.settle([(a, DeadLetter("rejected"))])
    assert await transport.stats(JOBS) == Stats(2, 1, 7.0, 1, 1)
    assert await transport.stats(JOBS.dead_letters) == Stats(1, 0, 0.0, 0, None)
    await jobs.close()
    assert await transport.stats(JOBS) == Stats(3, 0, 7.0, 0, 1)


async def test_looking_at_what_is_missing(transport: MemoryTransport) -> None:
    """A source that does not exist cannot be looked at."""
    for look in (transport.stats, transport.browse, transport.purge):
        with pytest.raises(DestinationNotFound):
            await look(JOBS)
    with pytest.raises(DestinationNotFound):
        await transport.remove(JOBS, [])


async def test_a_topic_is_no_source(transport: MemoryTransport) -> None:
    """A topic itself cannot be consumed."""
    with pytest.raises(Unsupported, match="subscriptions"):
        transport.receiver(Entity(NEWS), prefetch=1)


async def test_a_temporary_subscription_goes_with_its_last_receiver(
    broker: MemoryBroker, transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """Nothing is left of a temporary subscription once nobody consumes it; a durable one stays."""
    passing, lasting = NEWS.subscription("passing", temporary=True), NEWS.subscription("lasting")
    await declare(passing, lasting)
    one, two = await receiver(passing), await receiver(passing)
    await one.close()
    await send(NEWS, "a")
    assert [delivery.message.id for delivery in await two.receive(1)] == ["a"]
    await two.close()
    await (await receiver(lasting)).close()
    assert set(broker.entities) == {"news", "news--lasting", "news--lasting--dead"}
    await send(NEWS, "b")
    assert await stored(transport, lasting) == ["a", "b"]


async def test_use_before_open_and_after_close(clock: VirtualClock) -> None:
    """A transport that is not open says so; closing it again, or without opening it, does nothing."""
    transport = MemoryTransport(host(clock))
    for _ in range(2):
        await transport.close()
        with pytest.raises(ClosedError):
            await transport.publish([], timeout_s=1)
        with pytest.raises(ClosedError):
            await transport.plan([])
        with pytest.raises(ClosedError):
            await transport.browse(JOBS)
        with pytest.raises(ClosedError):
            transport.receiver(Entity(JOBS), prefetch=1)
        await transport.open()
        await transport.open()
        await transport.close()
    assert repr(transport) == "<MemoryTransport memory:// [closed]>"


async def test_closing_ends_its_receivers(broker: MemoryBroker, clock: VirtualClock) -> None:
    """Closing a client gives back what its receivers hold and ends their waits, and leaves other clients alone."""
    one, two = MemoryTransport(host(clock), broker), MemoryTransport(host(clock), broker)
    await one.open()
    await two.open()
    await one.apply(await one.plan([Entity(JOBS)]))
    await one.publish([Outgoing(JOBS, Message(b"", "a"))], timeout_s=1)
    receivers = [one.receiver(Entity(JOBS), prefetch=1), two.receiver(Entity(JOBS), prefetch=1)]
    for receiver in receivers:
        await receiver.open()
    await receivers[0].receive(1)
    waiting = asyncio.ensure_future(receivers[0].receive(1))
    await settle_down()
    await one.close()
    with pytest.raises(ClosedError):
        await waiting
    (delivery,) = await receivers[1].receive(1)
    assert delivery.message.id == "a"
    assert repr(two) == "<MemoryTransport memory:// [<MemoryBroker entities=1 rows=1>]>"
    await two.close()


async def test_clients_of_one_name_share_a_broker(clock: VirtualClock) -> None:
    """What one client stores another of that name finds, one of another name does not; it ends with the last."""
    one, two, other = (MemoryTransport(host(clock), name=name) for name in ("shop", "shop", ""))
    for transport in (one, two, other):
        await transport.open()
    await one.apply(await one.plan([Entity(JOBS)]))
    await one.publish([Outgoing(JOBS, Message(b"", "a"))], timeout_s=1)
    await one.close()
    assert await stored(two, JOBS) == ["a"]
    assert two.native is not other.native
    with pytest.raises(DestinationNotFound):
        await other.browse(JOBS)
    await two.close()
    await one.open()
    with pytest.raises(DestinationNotFound):
        await one.browse(JOBS)
    await one.close()
    await other.close()


async def test_one_name_has_one_set_of_settings(clock: VirtualClock) -> None:
    """A second client of a name that wants other settings is refused, and the first is not disturbed."""
    one, two = MemoryTransport(host(clock)), MemoryTransport(host(clock), dedup_window_s=1)
    await one.open()
    with pytest.raises(InvalidSettings, match="dedup_window_s"):
        await two.open()
    await two.close()
    await one.close()
    await two.open()
    await two.close()


async def test_a_prefix_keeps_applications_apart(broker: MemoryBroker, clock: VirtualClock) -> None:
    """Names on the broker are those of the host."""
    one, two = MemoryTransport(host(clock, "one-"), broker), MemoryTransport(host(clock, "two-"), broker)
    for transport in (one, two):
        await transport.open()
        await transport.apply(await transport.plan([Entity(JOBS), Entity(JOBS.dead_letters)]))
    await one.publish([Outgoing(JOBS, Message(b"", "a"))], timeout_s=1)
    assert await stored(two, JOBS) == []
    assert set(broker.entities) == {"one-jobs", "one-jobs--dead", "two-jobs", "two-jobs--dead"}
    await one.close()
    await two.close()


async def test_many_addresses_are_told_apart(transport: MemoryTransport, declare: Declare, send: Send) -> None:
    """Addresses that are made anew for each publish reach their own queues, however many there are."""
    for number in range(1100):
        queue = Queue(f"q{number}")
        await declare(queue)
        await send(queue, f"m{number}")
        del queue
    for number in (0, 500, 1099):
        assert await stored(transport, Queue(f"q{number}")) == [f"m{number}"]


async def test_a_publisher_in_another_thread_wakes_a_receiver(
    broker: MemoryBroker, clock: VirtualClock, transport: MemoryTransport, declare: Declare, receiver: Open
) -> None:
    """A client on another thread's loop reaches a receiver that waits on this one, and nothing is lost between them."""
    await declare(JOBS)
    jobs = await receiver(JOBS)

    async def publish() -> None:
        transport = MemoryTransport(host(clock), broker)
        await transport.open()
        for number in range(500):
            await transport.publish([Outgoing(JOBS, Message(b"", str(number)))], timeout_s=1)
        await transport.close()

    threads = [threading.Thread(target=lambda: asyncio.run(publish())) for _ in range(2)]
    # The second thread publishes the same ids: each is stored once.
    for thread in threads:
        thread.start()
    received: list[str] = []
    async with asyncio.timeout(10):
        while len(received) < 500:
            deliveries = await jobs.receive(20)
            received.extend(delivery.message.id for delivery in deliveries)
            assert await jobs.settle([(delivery, ACK) for delivery in deliveries]) == [None] * len(deliveries)
    for thread in threads:
        thread.join()
    assert sorted(received, key=int) == [str(number) for number in range(500)]
    assert await stored(transport, JOBS) == []


async def test_a_receiver_whose_loop_died_swallows_no_wake(
    broker: MemoryBroker, clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """A message goes to the next who waits when the first one's loop was closed under it."""
    await declare(JOBS)

    def die() -> None:
        async def wait() -> None:
            transport = MemoryTransport(host(clock), broker)
            await transport.open()
            dead = transport.receiver(Entity(JOBS), prefetch=1)
            await dead.open()
            store = next(iter(broker.entities.values()))
            consumer = next(iter(store.consumers))  # type: ignore[union-attr]
            assert broker.take(consumer, 1, clock()) == []

        asyncio.run(wait())

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    waiting = asyncio.ensure_future((await receiver(JOBS)).receive(1))
    await settle_down()
    await send(JOBS, "a")
    assert (await waiting)[0].message.id == "a"


async def test_diagnose_says_what_it_is_worth(transport: MemoryTransport) -> None:
    """The one thing to know about memory is said in plain words."""
    (finding,) = await transport.diagnose()
    assert finding.level == "warn"
    assert "memory of this process" in finding.says
