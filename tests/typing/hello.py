"""One queue, one handler, in one process."""

import asyncio

from busframe import Bus, Queue

telegrams = Queue("telegrams", str)
bus = Bus("memory://")
printed: list[str] = []


@bus.handle(telegrams)
async def print_out(telegram: str) -> None:
    printed.append(f"{telegram} STOP")


async def main() -> None:
    async with bus.worker() as worker:
        sent = await bus.publish(telegrams, "arriving tuesday")
        await worker.wait_idle(0.01)
    assert len(sent.id) == 32
    assert printed == ["arriving tuesday STOP"]


if __name__ == "__main__":
    asyncio.run(main())
