"""One consumer: waiting, settling, stopping, closing."""

import asyncio
from collections.abc import Sequence

import pytest

from busframe.errors import ClosedError, DestinationNotFound, SettlementLost, TopologyMismatch, Unsupported
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.memory.receiver import MemoryReceiver
from busframe.spi import ACK, RELEASE, DeadLetter, Delivery, Entity, Message, Nack, Outgoing, Queue, Topic
from tests.unit.memory.conftest import Declare, Open, Send
from tests.unit.memory.virtual import VirtualClock, settle_down

JOBS = Queue("jobs")


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Which messages, in order."""
    return [delivery.message.id for delivery in deliveries]


async def test_it_returns_what_is_there_up_to_the_limit(declare: Declare, receiver: Open, send: Send) -> None:
    """`receive` takes at most its limit, and does not wait for more than there is."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c")
    jobs = await receiver(JOBS)
    assert ids(await jobs.receive(2)) == ["a", "b"]
    assert ids(await jobs.receive(2)) == ["c"]


async def test_it_waits_for_a_message(declare: Declare, receiver: Open, send: Send) -> None:
    """A waiting `receive` is woken by a publish."""
    await declare(JOBS)
    jobs = await receiver(JOBS)
    waiting = asyncio.ensure_future(jobs.receive(10))
    await settle_down()
    assert not waiting.done()
    await send(JOBS, "a")
    assert ids(await waiting) == ["a"]


async def test_it_waits_for_a_delayed_message(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """A waiting `receive` wakes when the host's clock says that a message is due, and not before."""
    await declare(JOBS)
    jobs = await receiver(JOBS)
    waiting = asyncio.ensure_future(jobs.receive(10))
    await settle_down()
    await send(JOBS, "late", delay_s=30)
    await send(JOBS, "soon", delay_s=10)
    await clock.advance(9.9)
    assert not waiting.done()
    await clock.advance(0.1)
    assert ids(await waiting) == ["soon"]
    waiting = asyncio.ensure_future(jobs.receive(10))
    await clock.advance(20)
    assert ids(await waiting) == ["late"]
    assert clock.sleepers == 0


async def test_a_message_wakes_it_while_it_waits_for_a_delayed_one(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """What comes at once is not held up by a delay that is being waited for."""
    await declare(JOBS)
    await send(JOBS, "late", delay_s=30)
    jobs = await receiver(JOBS)
    waiting = asyncio.ensure_future(jobs.receive(10))
    await settle_down()
    await send(JOBS, "now")
    assert ids(await waiting) == ["now"]
    await settle_down()
    assert clock.sleepers == 0


async def test_one_of_many_waiting_gets_a_message(declare: Declare, receiver: Open, send: Send) -> None:
    """Competing receivers are served in the order in which they began to wait, each message once."""
    await declare(JOBS)
    waiting = []
    for _ in range(3):
        jobs = await receiver(JOBS)
        waiting.append(asyncio.ensure_future(jobs.receive(1)))
        await settle_down()
    await send(JOBS, "a")
    await settle_down()
    assert [task.done() for task in waiting] == [True, False, False]
    await send(JOBS, "b")
    await send(JOBS, "c")
    assert [ids(await task) for task in waiting] == [["a"], ["b"], ["c"]]


async def test_competing_receivers_share_a_backlog(declare: Declare, receiver: Open, send: Send) -> None:
    """No receiver takes everything because it never lets the others run."""
    await declare(JOBS)
    await send(JOBS, *(f"m{number}" for number in range(100)))
    counts = [0] * 5
    done = asyncio.Event()

    async def consume(number: int, jobs: MemoryReceiver) -> None:
        while True:
            deliveries = await jobs.receive(1)
            counts[number] += len(deliveries)
            if sum(counts) == 100:
                done.set()
            await jobs.settle([(delivery, ACK) for delivery in deliveries])

    tasks = [asyncio.ensure_future(consume(number, await receiver(JOBS))) for number in range(5)]
    async with asyncio.timeout(5):
        await done.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert min(counts) >= 10


async def test_cancelling_a_wait_takes_nothing(declare: Declare, receiver: Open, send: Send) -> None:
    """A `receive` that is cancelled after it was woken leaves the message, and the next in the row gets it."""
    await declare(JOBS)
    first, second = await receiver(JOBS), await receiver(JOBS)
    cancelled = asyncio.ensure_future(first.receive(10))
    await settle_down()
    waiting = asyncio.ensure_future(second.receive(10))
    await settle_down()
    await send(JOBS, "a")
    cancelled.cancel()
    assert ids(await waiting) == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_whoever_leaves_hands_the_alarm_on(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """When the one receiver that knows of a delayed message is cancelled another one wakes for it."""
    await declare(JOBS)
    first, second = await receiver(JOBS), await receiver(JOBS)
    cancelled = asyncio.ensure_future(first.receive(10))
    await settle_down()
    waiting = asyncio.ensure_future(second.receive(10))
    await settle_down()
    await send(JOBS, "late", delay_s=5)
    await settle_down()
    assert clock.sleepers == 1
    cancelled.cancel()
    await clock.advance(5)
    assert ids(await waiting) == ["late"]


async def test_many_that_come_due_at_once_wake_many(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """A receiver that leaves due messages behind wakes the next."""
    await declare(JOBS)
    receivers = [await receiver(JOBS) for _ in range(3)]
    waiting = []
    for jobs in receivers:
        waiting.append(asyncio.ensure_future(jobs.receive(1)))
        await settle_down()
    await send(JOBS, "a", "b", "c", delay_s=5)
    await clock.advance(5)
    assert [ids(await task) for task in waiting] == [["a"], ["b"], ["c"]]


async def test_one_that_was_woken_by_its_alarm_waits_no_more(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """A receiver that took a delayed message does not swallow the wake-up of the next message."""
    await declare(JOBS)
    first, second = await receiver(JOBS), await receiver(JOBS)
    await send(JOBS, "late", delay_s=5)
    taking = asyncio.ensure_future(first.receive(1))
    await settle_down()
    await clock.advance(5)
    assert ids(await taking) == ["late"]
    waiting = asyncio.ensure_future(second.receive(1))
    await settle_down()
    await send(JOBS, "next")
    assert ids(await waiting) == ["next"]


async def test_what_is_released_reaches_all_who_wait(declare: Declare, receiver: Open, send: Send) -> None:
    """When several messages go back at once several waiting receivers get one each."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c")
    jobs = await receiver(JOBS)
    held = await jobs.receive(3)
    waiting = []
    for _ in range(3):
        other = await receiver(JOBS)
        waiting.append(asyncio.ensure_future(other.receive(1)))
    await settle_down()
    await jobs.settle([(delivery, RELEASE) for delivery in held])
    assert [ids(await task) for task in waiting] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("delay_s", [0.0, 5.0])
async def test_a_nack_reaches_who_waits(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send, delay_s: float
) -> None:
    """What one receiver nacks reaches another that was waiting already, when its delay is over."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    waiting = asyncio.ensure_future(other.receive(1))
    await settle_down()
    await jobs.settle([(delivery, Nack(delay_s))])
    await clock.advance(delay_s)
    assert ids(await waiting) == ["a"]


async def test_a_freed_key_reaches_who_waits(declare: Declare, receiver: Open, send: Send) -> None:
    """The next message of a key reaches a receiver that was waiting for it when the one before is acknowledged."""
    await declare(JOBS, ordering="key")
    await send(JOBS, "a1", "a2", key="a")
    jobs, other = await receiver(JOBS, ordering="key"), await receiver(JOBS, ordering="key")
    (delivery,) = await jobs.receive(10)
    waiting = asyncio.ensure_future(other.receive(10))
    await settle_down()
    assert not waiting.done()
    await jobs.settle([(delivery, ACK)])
    assert ids(await waiting) == ["a2"]


async def test_a_lost_connection_reaches_who_waits(
    broker: MemoryBroker, declare: Declare, receiver: Open, send: Send
) -> None:
    """What the broker takes back goes to a receiver that was waiting."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    await jobs.receive(1)
    waiting = asyncio.ensure_future(other.receive(1))
    await settle_down()
    broker.disconnect()
    assert ids(await waiting) == ["a"]


async def test_an_acknowledged_message_is_gone(
    transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """After `Ack` nothing is stored."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    assert await jobs.settle([(delivery, ACK)]) == [None]
    await jobs.close()
    assert await transport.browse(JOBS) == []


async def test_a_second_settlement_is_lost(declare: Declare, receiver: Open, send: Send) -> None:
    """A delivery is settled once; again says `SettlementLost` and touches nothing, redelivered or not."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    first, second = await jobs.settle([(delivery, Nack()), (delivery, ACK)])
    assert first is None
    assert isinstance(second, SettlementLost)
    (again,) = await jobs.receive(1)
    assert isinstance((await jobs.settle([(delivery, ACK)]))[0], SettlementLost)
    assert await jobs.settle([(again, ACK)]) == [None]


async def test_another_receiver_cannot_settle_it(declare: Declare, receiver: Open, send: Send) -> None:
    """A delivery belongs to the receiver that returned it."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    assert isinstance((await other.settle([(delivery, ACK)]))[0], SettlementLost)
    assert await jobs.settle([(delivery, ACK)]) == [None]


async def test_a_nack_stores_what_it_carries_and_counts_anew(
    clock: VirtualClock, declare: Declare, receiver: Open, send: Send
) -> None:
    """After `Nack` the message comes after its delay, at the same position, with the new state, counted anew."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    carried = {"bf-attempt": "1 jobs"}
    assert await jobs.settle([(delivery, Nack(5.0, carried))]) == [None]
    carried["bf-attempt"] = "changed by the caller afterwards"
    waiting = asyncio.ensure_future(jobs.receive(1))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.1)
    (again,) = await waiting
    assert (again.message, again.position, again.deliveries) == (delivery.message, delivery.position, 1)
    assert again.carried == {"bf-attempt": "1 jobs"}


async def test_a_release_goes_back_to_its_place(declare: Declare, receiver: Open, send: Send) -> None:
    """What is released comes again at once, in the old order, and is counted as delivered."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c")
    jobs = await receiver(JOBS)
    deliveries = await jobs.receive(2)
    assert await jobs.settle([(delivery, RELEASE) for delivery in reversed(deliveries)]) == [None, None]
    again = await jobs.receive(3)
    assert ids(again) == ["a", "b", "c"]
    assert [delivery.deliveries for delivery in again] == [2, 2, 1]
    assert [delivery.position for delivery in again][:2] == [delivery.position for delivery in deliveries]


async def test_a_dead_letter_moves(transport: MemoryTransport, declare: Declare, receiver: Open, send: Send) -> None:
    """After `DeadLetter` the message is among the dead letters of its source, unchanged, with its record."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    record = {"bf-dead-reason": "rejected", "bf-dead-replays": "2"}
    assert await jobs.settle([(delivery, DeadLetter("rejected", carried=record))]) == [None]
    assert await transport.browse(JOBS) == []
    (stored,) = await transport.browse(JOBS.dead_letters)
    assert (stored.message.id, stored.message.body) == ("a", b"a")
    assert stored.message.dead is not None
    assert (stored.message.dead.reason, stored.message.dead.replays) == ("rejected", 2)
    (letter,) = await (await receiver(JOBS.dead_letters)).receive(1)
    assert (letter.message, letter.carried, letter.deliveries) == (delivery.message, record, 1)


async def test_without_dead_letters_it_is_held(transport: MemoryTransport, receiver: Open, send: Send) -> None:
    """Where the dead letters do not exist the settlement fails, and the message is neither lost nor free."""
    await transport.apply(await transport.plan([Entity(JOBS)]))
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    (outcome,) = await jobs.settle([(delivery, DeadLetter("rejected"))])
    assert isinstance(outcome, DestinationNotFound)
    assert (await transport.stats(JOBS)).in_flight == 1
    assert await jobs.settle([(delivery, ACK)]) == [None]


async def test_dead_letters_are_not_dead_lettered(declare: Declare, receiver: Open, send: Send) -> None:
    """Dead letters have no dead letters: the settlement is refused and the letter is held."""
    await declare(JOBS)
    await send(JOBS.dead_letters, "a")
    letters = await receiver(JOBS.dead_letters)
    (letter,) = await letters.receive(1)
    (outcome,) = await letters.settle([(letter, DeadLetter("rejected"))])
    assert isinstance(outcome, Unsupported)
    assert await letters.settle([(letter, RELEASE)]) == [None]


async def test_a_settlement_touches_only_what_is_listed(
    transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """Acknowledging some leaves the others held, and closing gives exactly those back."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c", "d")
    jobs = await receiver(JOBS)
    a, b, _, d = await jobs.receive(4)
    assert await jobs.settle([(a, ACK), (b, ACK), (d, ACK)]) == [None, None, None]
    await jobs.close()
    assert [stored.message.id for stored in await transport.browse(JOBS)] == ["c"]


async def test_before_is_settled_by_being_received(
    transport: MemoryTransport, declare: Declare, receiver: Open, send: Send
) -> None:
    """With ack="before" nothing is stored any more when `receive` returns, and nothing comes back."""
    await declare(JOBS, ordering="key")
    await send(JOBS, "a", "b", key="k")
    jobs = await receiver(JOBS, ordering="key", ack="before")
    (delivery,) = await jobs.receive(10)
    assert [stored.message.id for stored in await transport.browse(JOBS)] == ["b"]
    assert isinstance((await jobs.settle([(delivery, ACK)]))[0], SettlementLost)
    assert ids(await jobs.receive(10)) == ["b"]
    await jobs.close()
    assert await transport.browse(JOBS) == []


async def test_stop_ends_a_wait_and_keeps_what_is_held(declare: Declare, receiver: Open, send: Send) -> None:
    """After `stop` a waiting `receive` raises, a message goes to another, and what is held can be settled."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    waiting = asyncio.ensure_future(jobs.receive(1))
    await settle_down()
    await jobs.stop()
    await jobs.stop()
    await send(JOBS, "b")
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await jobs.receive(1)
    assert ids(await other.receive(10)) == ["b"]
    assert await jobs.settle([(delivery, ACK)]) == [None]


async def test_close_gives_back_at_once(declare: Declare, receiver: Open, send: Send) -> None:
    """What is unsettled at `close` goes to the next receiver in the old order; the old receipts are void."""
    await declare(JOBS)
    await send(JOBS, "a", "b", "c")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    old = await jobs.receive(2)
    await jobs.close()
    await jobs.close()
    again = await other.receive(10)
    assert ids(again) == ["a", "b", "c"]
    assert [delivery.deliveries for delivery in again] == [2, 2, 1]
    outcomes = await jobs.settle([(delivery, ACK) for delivery in old])
    assert all(isinstance(outcome, SettlementLost) for outcome in outcomes)
    assert await other.settle([(delivery, ACK) for delivery in again]) == [None] * 3


async def test_close_wakes_who_waits(declare: Declare, receiver: Open, send: Send) -> None:
    """What a closed receiver gives back reaches one that waits already."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs, other = await receiver(JOBS), await receiver(JOBS)
    await jobs.receive(1)
    waiting = asyncio.ensure_future(other.receive(1))
    await settle_down()
    await jobs.close()
    assert ids(await waiting) == ["a"]


async def test_keys_keep_their_order_across_receivers(declare: Declare, receiver: Open, send: Send) -> None:
    """While one message of a key is held nobody gets the next; failing and handing over keep the order."""
    await declare(JOBS, ordering="key")
    await send(JOBS, "a1", "a2", "a3", key="a")
    await send(JOBS, "b1", key="b")
    jobs, other = await receiver(JOBS, ordering="key"), await receiver(JOBS, ordering="key")
    (a1, b1) = await jobs.receive(10)
    assert ids([a1, b1]) == ["a1", "b1"]
    waiting = asyncio.ensure_future(other.receive(10))
    await settle_down()
    assert not waiting.done()
    assert await jobs.settle([(b1, ACK)]) == [None]
    await jobs.close()
    (a1,) = await waiting
    assert a1.message.id == "a1"
    assert await other.settle([(a1, ACK)]) == [None]
    assert ids(await other.receive(10)) == ["a2"]


async def test_a_lost_connection_begins_a_new_generation(
    broker: MemoryBroker, declare: Declare, receiver: Open, send: Send
) -> None:
    """After the broker took everything back old receipts are void and the receiver goes on."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (old,) = await jobs.receive(1)
    broker.disconnect()
    assert isinstance((await jobs.settle([(old, ACK)]))[0], SettlementLost)
    (again,) = await jobs.receive(1)
    assert (again.message, again.generation, again.deliveries) == (old.message, old.generation + 1, 2)


async def test_a_deleted_source_is_said(broker: MemoryBroker, declare: Declare, receiver: Open, send: Send) -> None:
    """A waiting `receive` learns that its queue was deleted; what was held is lost with it."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    waiting = asyncio.ensure_future(jobs.receive(1))
    await settle_down()
    broker.delete("jobs")
    with pytest.raises(DestinationNotFound):
        await waiting
    assert isinstance((await jobs.settle([(delivery, ACK)]))[0], SettlementLost)
    await jobs.close()
    await declare(JOBS)
    await send(JOBS, "b")
    assert ids(await (await receiver(JOBS)).receive(10)) == ["b"]


async def test_opening_what_is_missing(transport: MemoryTransport) -> None:
    """A source that does not exist, or is of another kind, cannot be opened."""
    await transport.apply(await transport.plan([Entity(Topic("news"))]))
    for address in (JOBS, Queue("news"), JOBS.dead_letters):
        with pytest.raises(DestinationNotFound):
            await transport.receiver(Entity(address), prefetch=1).open()


async def test_opening_with_an_order_that_is_not_kept(transport: MemoryTransport, declare: Declare) -> None:
    """Handlers that ask for the order of keys do not start on a source that keeps none."""
    await declare(JOBS)
    with pytest.raises(TopologyMismatch, match="ordering"):
        await transport.receiver(Entity(JOBS, ordering="key"), prefetch=1).open()


async def test_use_before_open_and_after_close(transport: MemoryTransport, declare: Declare, receiver: Open) -> None:
    """A receiver that is not open says so."""
    await declare(JOBS)
    unopened = transport.receiver(Entity(JOBS), prefetch=1)
    with pytest.raises(ClosedError):
        await unopened.receive(1)
    with pytest.raises(ClosedError):
        await unopened.settle([])
    await unopened.stop()
    await unopened.close()
    with pytest.raises(ClosedError):
        await unopened.open()
    assert repr(unopened) == "<MemoryReceiver jobs [closed]>"


async def test_where_is_the_stored_filter(declare: Declare, receiver: Open) -> None:
    """`where` shows what is stored now, also after another client changed it; a queue has none."""
    topic = Topic("news")
    await declare(topic.subscription("s", where={"lang": "de"}), JOBS)
    news = await receiver(topic.subscription("s"))
    assert dict(news.where or {}) == {"lang": ("de",)}
    await declare(topic.subscription("s", where={"lang": ["de", "en"]}))
    assert dict(news.where or {}) == {"lang": ("de", "en")}
    assert (await receiver(JOBS)).where is None


async def test_a_handler_cannot_change_what_comes_again(
    transport: MemoryTransport, declare: Declare, receiver: Open
) -> None:
    """Headers of a delivery are read-only, so that a redelivered message is what was published."""
    await declare(JOBS)
    headers = {"a": "1"}
    await transport.publish([Outgoing(JOBS, Message(b"x", "m", headers=headers))], timeout_s=1)
    headers["a"] = "2"
    jobs = await receiver(JOBS)
    (delivery,) = await jobs.receive(1)
    with pytest.raises(TypeError):
        delivery.message.headers["a"] = "3"  # type: ignore[index]
    await jobs.settle([(delivery, Nack())])
    (again,) = await jobs.receive(1)
    assert again.message == Message(b"x", "m", headers={"a": "1"})


async def test_repr_says_what_is_held(declare: Declare, receiver: Open, send: Send) -> None:
    """A receiver in a debugger tells its source, state and load."""
    await declare(JOBS)
    await send(JOBS, "a")
    jobs = await receiver(JOBS)
    await jobs.receive(1)
    assert repr(jobs) == "<MemoryReceiver jobs [open, 1 held]>"
    await jobs.stop()
    assert repr(jobs) == "<MemoryReceiver jobs [stopped, 1 held]>"
