"""Dead letters are a source like another: one handler reports them, one sends them on."""

import asyncio

from busframe import Bus, Context, DeadLetterInfo, DeadLetters, Message, Reject, Retry, SyncContext
from tests.typing.parcels import Accepted, anything, labels, tracking

bus = Bus("memory://", uses=[anything], retry=Retry(max_attempts=2, delay_s=0))
lost: DeadLetters = labels.dead_letters
audit = tracking.subscription("audit")
reports: list[str] = []
forwarded: list[Message] = []


@bus.handle(labels)
async def print_label(parcel: Accepted) -> None:
    raise Reject("out of ink") if parcel.weight_kg else ValueError("no weight")


@bus.handle(lost)
async def report(message: Message, ctx: Context) -> None:
    dead: DeadLetterInfo | None = message.dead
    assert dead is not None
    reports.append(f"{dead.reason} of {dead.source} by {dead.handler} after {dead.attempts}: {dead.error_message}")
    await ctx.publish(anything, message, headers={**message.headers, "reason": dead.reason})


@bus.handle(audit.dead_letters)
def report_audit(message: Message, ctx: SyncContext) -> None:
    ctx.publish(anything, message)


@bus.handle(anything)
async def mend(message: Message) -> None:
    forwarded.append(message)


async def main() -> None:
    async with bus.worker() as worker:
        await bus.publish(labels, Accepted(number="P1", weight_kg=1), headers={"depot": "north"})
        await bus.publish(labels, Accepted(number="P2", weight_kg=0))
        await worker.wait_idle(0.01)
    assert sorted(reports) == [
        "attempts of labels by print_label after 2: no weight",
        "rejected of labels by print_label after 1: out of ink",
    ]
    assert {message.type for message in forwarded} == {"parcel.accepted"}
    assert sorted(message.headers["reason"] for message in forwarded) == ["attempts", "rejected"]
    assert all(message.dead is None for message in forwarded)


if __name__ == "__main__":
    asyncio.run(main())
