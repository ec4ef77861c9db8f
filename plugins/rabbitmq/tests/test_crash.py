"""A server that is killed under a publisher and a consumer."""

import asyncio
from typing import Any

import pytest

from busframe.errors import PublishError
from busframe.model.destination import Queue
from busframe.model.settlement import ACK
from plugins.rabbitmq.tests.support import Reports, consuming, declare, message, opened, publish, queues_are_on_disk


@pytest.mark.slow
async def test_nothing_confirmed_is_lost(own_rabbitmq: Any) -> None:
    """SIGKILL at a third, a restart at two thirds: every confirmed message is handled, duplicates are allowed."""
    server = own_rabbitmq()
    emails = Queue[Any]("emails")
    reports = Reports()
    confirmed: set[str] = set()
    handled: set[str] = set()
    total = 3000

    async with opened(server.url, reports=reports, publish_window=200) as transport:
        await declare(transport, emails)
        await queues_are_on_disk()
        numbers = iter(range(total))
        down = {total // 3: server.kill, 2 * total // 3: server.stop}

        async def publisher() -> None:
            for number in numbers:
                if number in down:
                    await asyncio.to_thread(down[number])
                    await asyncio.to_thread(server.start)
                each = message(b"%d" % number, id=f"m{number}")
                while True:  # as an application does that wants it to arrive
                    (outcome,) = await publish(transport, emails, each)
                    if outcome is None:
                        confirmed.add(each.id)
                        break
                    assert isinstance(outcome, PublishError)

        async with consuming(transport, emails, prefetch=100) as receiver:

            async def consumer() -> None:
                while len(handled) < total:
                    batch = await receiver.receive(50)
                    await receiver.settle([(each, ACK) for each in batch])
                    handled.update(each.message.id for each in batch)

            async with asyncio.timeout(50):
                await asyncio.gather(consumer(), *(publisher() for _ in range(50)))
    assert confirmed == handled
    assert len(confirmed) == total
    assert [report[:2] for report in reports if report[0] == "connection"].count(("connection", "down")) >= 1
