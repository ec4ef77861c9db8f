"""A worker to be killed: takes messages, works at each for a random time, and writes down what it began and ended.

``python killed.py URL PREFIX JOURNAL``
"""

import asyncio
import random
import sys
from pathlib import Path

from busframe.model.delivery import Delivery
from busframe.model.destination import Queue
from busframe.model.entity import Entity
from busframe.model.settlement import ACK
from plugins.kafka.tests.support import opened


async def main(url: str, prefix: str, path: str) -> None:
    """Work until killed."""
    with Path(path).open("a", buffering=1) as journal:  # noqa: ASYNC230  # a line at a time, at once
        async with opened(url, prefix=prefix, session_timeout_s=1.5) as transport:
            receiver = transport.receiver(Entity(Queue("emails"), ordering="none"), prefetch=100)
            await receiver.open()

            async def work(delivery: Delivery) -> None:
                journal.write(f"began {delivery.position}\n")
                await asyncio.sleep(random.expovariate(1 / 0.02))
                journal.write(f"ended {delivery.position}\n")
                await receiver.settle([(delivery, ACK)])

            working: set[asyncio.Task[None]] = set()
            while True:
                for delivery in await receiver.receive(max(1, 100 - len(working))):
                    task = asyncio.create_task(work(delivery))
                    working.add(task)
                    task.add_done_callback(working.discard)
                await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
