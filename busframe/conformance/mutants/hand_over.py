"""What can be wrong with the order across workers (G)."""

from dataclasses import replace
from typing import Literal

from busframe.conformance.mutants.mutant import core_mutant
from busframe.conformance.mutants.server import ServerTransport, server_mutant
from busframe.memory.receiver import MemoryReceiver
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.spi.transport import Receiver


@core_mutant(
    "what the broker took back is started all the same",
    "G8",
    says="and not as one that is delivered again|later or never",
    of=MemoryReceiver,
    attribute="holds",
)
def holds_for_ever(receiver: MemoryReceiver, delivery: Delivery) -> bool:
    """As long as it was not settled here."""
    return True


@server_mutant(
    "an ordered source is consumed like any other",
    "G9",
    says="handlers began out of order|handlers began beside another",
)
class ConsumesLikeAnyOther(ServerTransport):
    """Workers that take and give back as it suits them, and only keep apart the keys that each of them has."""

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Of a source without order."""
        return super().receiver(replace(entity, ordering="none"), prefetch=prefetch, ack=ack)
