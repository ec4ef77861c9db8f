"""What passes between the core and a transport: one message to send, one message received.

Values as all others here, by convention: one of each is made for every message, and ``frozen`` would triple what that
costs (0.75 µs instead of 0.2).
"""

from dataclasses import dataclass, field

from busframe.model.destination import Address
from busframe.model.message import Headers, Message, no_headers


@dataclass(slots=True)
class Outgoing:
    """One message to be stored.

    Attributes:
        to: where. A subscription or dead letters stand here for a copy that reaches that address alone.
        message: what.
        delay_s: not to be delivered before so many seconds.
        dedup_key: names this one write where the broker looks for duplicates; empty: the message's id.
        carried: the ``bf-*`` headers of what is stored: written and read by the core alone, kept verbatim.
    """

    to: Address
    message: Message
    delay_s: float = 0.0
    dedup_key: str = ""
    carried: Headers = field(default_factory=no_headers)


@dataclass(slots=True, eq=False)
class Delivery:
    """One received message, to be settled exactly once.

    Attributes:
        message: what was published.
        receipt: the transport's own; valid in one generation of one receiver.
        position: the same at every redelivery of the stored message; empty where the broker has none.
        deliveries: how often the broker has delivered it since it was stored or its last failure was recorded, ≥ 1.
        generation: counts the receiver's reconnects.
        carried: the ``bf-*`` headers that are stored with it.
    """

    message: Message
    receipt: object
    position: str
    deliveries: int
    generation: int
    carried: Headers = field(default_factory=no_headers)
