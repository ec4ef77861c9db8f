"""Delayed retry and dead-lettering where the broker has no such verb: a confirmed copy, then the acknowledgement."""

from busframe.errors import BusframeError, PublishError, PublishOutcomeUnknown
from busframe.logic.attempts import failures_recorded
from busframe.logic.dead_letter import attempts_of
from busframe.logic.names import body_position, dedup_key
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address
from busframe.model.settlement import ACK, DeadLetter, Nack
from busframe.spi.transport import Receiver, Transport

COPY_TIMEOUT_S = 30.0


async def copy_then_ack(
    transport: Transport, receiver: Receiver, delivery: Delivery, settlement: Nack | DeadLetter, *, to: Address
) -> Exception | None:
    """Store a copy with confirmation and then acknowledge the original.

    A crash or cancellation between the two leaves a duplicate, never a loss; the copy has a deterministic key, so that
    a broker that looks for duplicates makes no second one.

    Args:
        transport: publishes the copy.
        receiver: the one that the delivery came from.
        delivery: the original.
        settlement: its delay or reason, and what the copy carries.
        to: the source itself, or its dead letters.

    Returns:
        None; or why the copy is not there, and then the original is untouched; or why the acknowledgement failed.
    """
    message = delivery.message
    position = delivery.position or body_position(message.id, message.body)
    if isinstance(settlement, Nack):
        key = dedup_key(message.id, "retry", str(to), failures_recorded(settlement.carried, str(to)), position)
        copy = Outgoing(to, message, delay_s=settlement.delay_s, dedup_key=key, carried=settlement.carried)
    else:
        key = dedup_key(message.id, "dead", str(to), attempts_of(settlement.carried), position)
        copy = Outgoing(to, message, dedup_key=key, carried=settlement.carried)
    try:
        (outcome,) = await transport.publish([copy], timeout_s=COPY_TIMEOUT_S)
    except BusframeError as failed:
        return failed
    if outcome is not None:
        if isinstance(outcome, PublishError) and not outcome.message_id:
            outcome.message_id = message.id
        if not isinstance(outcome, BusframeError):
            unknown = PublishOutcomeUnknown(str(outcome), message_id=message.id)
            unknown.__cause__ = outcome
            return unknown
        return outcome
    (outcome,) = await receiver.settle([(delivery, ACK)])
    return outcome
