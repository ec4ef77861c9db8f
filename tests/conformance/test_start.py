"""Checks of what the memory transport does not claim, on one that does it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from busframe.conformance import CHECKS, run_check
from busframe.conformance.mutants.mutant import MutantHarness, MutantTransport
from busframe.model.delivery import Outgoing
from busframe.model.destination import Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe.spi.transport import Host


class KeepsHistory(MutantTransport):
    """A topic keeps what was published, for subscriptions that start earlier."""

    def __init__(self, host: Host, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self.capabilities = replace(self.capabilities, start=True)
        self.history: list[tuple[float, Outgoing]] = []

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Kept as well."""
        self.history += [(time.time(), out) for out in outgoing if isinstance(out.to, Topic)]
        return await super().publish(outgoing, timeout_s=timeout_s)

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """With any start."""
        changes: list[Change] = []
        for entity in entities:
            address, plain = entity.address, entity
            if isinstance(address, Subscription):
                plain = replace(entity, address=address.topic.subscription(address.name))
            changes += [replace(change, address=address) for change in await super().plan([plain])]
        return changes

    async def apply(self, changes: Sequence[Change]) -> None:
        """A new subscription gets what it asks of the history."""
        await super().apply(changes)
        for change in changes:
            address = change.address
            if change.action == "create" and isinstance(address, Subscription) and address.start != "latest":
                since = address.start.timestamp() if isinstance(address.start, datetime) else 0.0
                copies = [replace(out, to=address, dedup_key=uuid4().hex) for at, out in self.history if at >= since]
                await super().publish(copies, timeout_s=1.0)


async def test_a_transport_that_keeps_history_passes() -> None:
    """E4 is claimed, and kept."""
    result = await run_check(CHECKS["E4"], MutantHarness(KeepsHistory, "keeps history"))
    assert result.outcome == "passed", result.detail
