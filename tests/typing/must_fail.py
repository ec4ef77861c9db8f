"""What a type checker must refuse: one error on each marked line, and none on any other."""

from busframe import (
    Bus,
    Context,
    DeadLetter,
    Failure,
    Message,
    Nack,
    Next,
    Publisher,
    Queue,
    Retry,
    Router,
    SyncContext,
    SyncPublisher,
)
from tests.typing.parcels import Accepted, Returned, Scan, anything, labels, notices, scans, tracking

bus = Bus("memory://")
router = Router("depot")
everything = tracking.subscription("everything")


# ---------------------------------------------------------------------------------------------- the body


@bus.handle(labels)  # error: another class than the queue carries
async def another_class(parcel: Returned) -> None: ...


@bus.handle(notices)  # error: text, not bytes
async def another_builtin(notice: bytes) -> None: ...


@bus.handle(everything)  # error: the topic carries Returned as well
async def one_of_two(parcel: Accepted) -> None: ...


@bus.handle(everything, only=Accepted)  # error: only= and the body differ
async def only_another(parcel: Returned) -> None: ...


@bus.handle(labels)  # error: the body comes first
async def context_first(ctx: Context, parcel: Accepted) -> None: ...


@bus.handle(labels)  # error: no body
async def no_body() -> None: ...


@bus.handle(labels.dead_letters)  # error: dead letters are messages
async def letters_as_payloads(parcel: Accepted) -> None: ...


@router.handle(labels)  # error: of a router just as of a bus
async def on_a_router(parcel: Returned) -> None: ...


# ---------------------------------------------------------------------------------------------- the source and options


@bus.handle(tracking)  # error: a topic is not a source
async def a_topic(parcel: Accepted | Returned) -> None: ...


@bus.handle(labels, concurency=3)  # error: no such option
async def misspelt(parcel: Accepted) -> None: ...


@bus.handle(labels, ordering="total")  # error: no such ordering
async def wrong_ordering(parcel: Accepted) -> None: ...


@bus.handle(labels, ack="auto")  # error: no such way to acknowledge
async def wrong_ack(parcel: Accepted) -> None: ...


@bus.handle(labels, timeout_s="10s")  # error: seconds are a number
async def wrong_timeout(parcel: Accepted) -> None: ...


def not_a_policy(error: Exception) -> bool:
    return isinstance(error, ValueError)


@bus.handle(labels, retry=not_a_policy)  # error: a policy takes a Failure and gives Nack or DeadLetter
async def wrong_policy(parcel: Accepted) -> None: ...


async def not_middleware(message: Message) -> None: ...


@bus.handle(labels, middleware=[not_middleware])  # error: middleware takes (context, call_next)
async def wrong_middleware(parcel: Accepted) -> None: ...


@bus.handle(everything, only="Accepted")  # error: only= takes the class
async def only_by_name(parcel: Accepted) -> None: ...


# ---------------------------------------------------------------------------------------------- publishing


async def publishing(publisher: Publisher, ctx: Context, parcel: Accepted, returned: Returned) -> None:
    await publisher.publish(labels, returned)  # error: not of the queue's type
    await ctx.publish(tracking, "text")  # error: not of the topic's types
    await bus.publish(notices, 7)  # error: not text
    await bus.publish(everything, parcel)  # error: a subscription is not published to
    await bus.publish(labels.dead_letters, parcel)  # error: neither are dead letters
    await bus.publish("labels", parcel)  # error: a destination, not its name
    await bus.publish(labels, parcel, delay=3)  # error: no such option
    await bus.publish(labels, parcel, delay_s="3")  # error: seconds are a number
    await bus.publish(labels, parcel, headers={"copies": 2})  # error: headers are text
    await bus.publish(labels, parcel, None)  # error: options have names
    await bus.publish(scans, Scan(number="1", depo=4))  # error: not the keys of the typed dictionary
    await bus.publish_many(labels, [parcel, returned])  # error: one of them is not of the queue's type
    await bus.publish_many(labels, parcel)  # error: not many
    await bus.publish_many(labels, [parcel], id="1")  # error: an id names one message
    await bus.publish_many(labels, [parcel], keys="number")  # error: a function of the payload
    print(len(await bus.publish(labels, parcel)))  # error: what comes back is the message
    print(bus.publish(labels, parcel).id)  # error: not awaited
    await anything.publish({})  # error: queues are names, and publish nothing


async def publishing_synchronously(sync: SyncContext, publisher: SyncPublisher, parcel: Accepted) -> None:
    await sync.publish(labels, parcel)  # error: returns the message itself
    await bus.sync().publish_many(labels, [parcel])  # error: returns the messages themselves
    sync.publish(labels, "text")  # error: not of the queue's type
    sync.publish(labels, parcel, delay=3)  # error: no such option
    publisher.publish(labels, parcel, headers="text")  # error: headers are a mapping
    publisher.publish_many(labels, [parcel], id="1")  # error: an id names one message
    publisher.publish_many(labels, [parcel], keys=len)  # error: not a function of the payload
    await sync.ack()  # error: returns when it is done
    sync.reject()  # error: needs a reason


# ---------------------------------------------------------------------------------------------- the rest


def own_policy(failure: Failure) -> Nack | DeadLetter:
    return Retry(max_attempts=3)(failure.error)  # error: a policy decides about a failure


async def own_middleware(ctx: Context, call_next: Next) -> object:
    return await call_next(ctx)  # error: call_next takes nothing


def wrong_values() -> None:
    Retry(attempts=3)  # error: no such number
    Retry(give_up_on=(3,))  # error: classes of exceptions
    Queue("labels", "Accepted")  # error: a class, not its name
    tracking.subscription("x", where={"depot": 4})  # error: headers are text
    tracking.subscription("x", start="oldest")  # error: no such start
    Bus(uses=["labels"])  # error: queues and topics, not their names
    Bus(codecs=[Retry()])  # error: not a codec
    Bus(observers=[own_policy])  # error: an observer takes any event
    router.include(labels)  # error: routers include routers
