"""Publish three messages, handle them, end."""

import asyncio

from busframe import Bus, Queue

greetings = Queue("greetings", str)
bus = Bus(uses=[greetings])  # busframe.toml says which broker


@bus.handle(greetings, concurrency=1)
async def greet(name: str) -> None:
    print(f"hello, {name}")


async def main() -> None:
    async with bus.worker() as worker:
        for name in ("Ada", "Grace", "world"):
            await bus.publish(greetings, name)
        await worker.wait_idle()


if __name__ == "__main__":
    asyncio.run(main())
