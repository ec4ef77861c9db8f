"""A client that was there before its server was restarted."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from busframe.errors import TransportError
from busframe.model.destination import Queue
from plugins.kafka.tests.support import opened
from tests.brokers.kafka import Kafka
from tests.support.transports import declare, eventually, message, publish_all

EMAILS = Queue[Any]("emails")


@pytest.mark.slow
async def test_what_a_group_has_is_said_after_a_restart(own_kafka: Callable[[], Kafka]) -> None:
    """Each time: the client's own connection to a group's coordinator may stay silent."""
    server = own_kafka()
    async with opened(server.url, partitions=1) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(), message())

        async def is_said() -> bool:
            try:
                return (await transport.stats(EMAILS)).depth == 2
            except TransportError:
                return False

        await eventually(is_said, "both are counted")
        for restart in range(2):
            await asyncio.to_thread(server.restart)
            await eventually(is_said, f"both are counted after restart {restart + 1}")
