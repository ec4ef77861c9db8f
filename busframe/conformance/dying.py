"""How a process of a check dies between two steps of a transport."""

from collections.abc import Callable, Sequence
from typing import Any

from busframe.conformance.program import Moment, die
from busframe.conformance.wrapped import change_transports
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import DeadLetters
from busframe.model.entity import Entity
from busframe.model.settlement import DeadLetter, Settlement
from busframe.spi.transport import Host, Receiver, Transport


def die_at_dead_letter(scheme: str, number: int, moment: Moment) -> None:
    """Die when the so-manyth dead letter is about to be published, or when its copy is confirmed and no more.

    A transport that does not publish copies of its own settles in one step, or where nobody can look: there the process
    dies when that is over.

    Args:
        scheme: of the URL that transports will be made for.
        number: the first dead letter is 1.
        moment: see above.
    """
    copied = ended = 0

    def change(make: Callable[[Host], Transport], host: Host) -> Transport:
        transport = make(host)
        publish, receiver = transport.publish, transport.receiver

        async def publish_and_die(outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
            nonlocal copied
            copies = sum(isinstance(out.to, DeadLetters) for out in outgoing)
            copied += copies
            now = copies > 0 and copied >= number
            if now and moment == "before the copy":
                die()
            outcomes = await publish(outgoing, timeout_s=timeout_s)
            if now and None in outcomes:
                die()
            return outcomes

        def receiver_that_dies(entity: Entity, **options: Any) -> Receiver:
            made = receiver(entity, **options)
            settle = made.settle

            async def settle_and_die(settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
                nonlocal ended
                outcomes = await settle(settled)
                ended += sum(isinstance(settlement, DeadLetter) for _, settlement in settled)
                if ended >= number and not copied:
                    die()
                return outcomes

            made.settle = settle_and_die  # type: ignore[method-assign]
            return made

        transport.publish = publish_and_die  # type: ignore[method-assign]
        transport.receiver = receiver_that_dies  # type: ignore[method-assign]
        return transport

    change_transports(scheme, change)
