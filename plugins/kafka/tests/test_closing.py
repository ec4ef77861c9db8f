"""A client that ends while it is being asked."""

import asyncio
import sys
from pathlib import Path

from busframe_kafka.transport import Kafka
from plugins.kafka.tests.support import make_settings
from tests.support.transports import make_host

ROOT = Path(__file__).parents[3]
ROUNDS, ASKED = 40, 40


async def test_what_is_not_answered_yet_ends_no_process(kafka_url: str) -> None:
    """librdkafka aborts when an answer meets the end of its client, so this runs in a process of its own."""
    command = [sys.executable, "-m", "plugins.kafka.tests.test_closing", kafka_url]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await process.wait() == 0


async def close_while_asking(url: str) -> None:
    """Again and again, each time a little later."""
    for number in range(ROUNDS):
        transport = Kafka(make_settings(url), make_host())
        await transport.open()
        asking = [asyncio.create_task(transport.admin.topics([f"absent-{each}"])) for each in range(ASKED)]
        await asyncio.sleep(0.0005 * (number % 8))
        for each in asking:
            each.cancel()
        await transport.close()


if __name__ == "__main__":
    asyncio.run(close_while_asking(sys.argv[1]))
