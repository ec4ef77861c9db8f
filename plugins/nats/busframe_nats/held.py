"""What one receiver holds, for how long it may believe that, and what it tells the server of it. Without IO.

On JetStream what is held belongs to nobody's connection: the server waits for an acknowledgement for ``ack_wait``, and
begins anew at each sign of progress. So what is held is renewed, also when it is only buffered and also after a
reconnect, and is lost only when the server has heard nothing of it for too long.
"""

from collections.abc import Callable, Iterable

from busframe.errors import SettlementLost
from busframe.model.message import Headers
from busframe.model.settlement import Ack, Nack, Release
from busframe_nats.topology import SECOND

ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
RECORDED = 10_000


class Receipt:
    """One message that was delivered.

    Attributes:
        reply: where its acknowledgement goes.
        seq: its place in the stream.
        at: when it came, on the loop's clock.
        settled: the server was told what became of it.
    """

    __slots__ = ("at", "reply", "seq", "settled")

    def __init__(self, reply: bytes, seq: int, at: float) -> None:
        self.reply = reply
        self.seq = seq
        self.at = at
        self.settled = False


class Held:
    """The unsettled messages of one receiver.

    Args:
        now: the loop's clock, in seconds.

    Attributes:
        ack_wait_s: of the consumer.
        generation: how often all was lost.
        unproven: where acknowledgements went that the server has perhaps not read.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.ack_wait_s = 30.0
        self.generation = 0
        self.unproven: list[bytes] = []
        self._now = now
        self._renewed_at = now()
        self._held: dict[int, Receipt] = {}
        self._recorded: dict[int, Headers] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, reply: bytes, seq: int) -> Receipt:
        """A message came. If it is held already, the older delivery is lost."""
        receipt = self._held[seq] = Receipt(reply, seq, self._now())
        return receipt

    def owns(self, receipt: Receipt) -> bool:
        """Whether the server surely waits for us to settle it."""
        if self._held.get(receipt.seq) is not receipt:
            return False
        since = self._now() - self.ack_wait_s
        return since <= receipt.at or since <= self._renewed_at

    def drop(self, receipt: Receipt) -> None:
        """It is settled in another way."""
        receipt.settled = True
        if self._held.get(receipt.seq) is receipt:
            del self._held[receipt.seq]

    def settle(
        self, receipt: Receipt, settlement: Ack | Nack | Release, commands: list[bytes]
    ) -> SettlementLost | None:
        """What to tell the server. A late acknowledgement counts there; whatever else is late it drops."""
        if receipt.settled:
            return SettlementLost("it is settled already")
        if isinstance(settlement, Ack):
            reply = receipt.reply
            self.drop(receipt)
            commands.append(b"PUB " + reply + _ACKED)  # in a third of the time of command()
            self.unproven.append(reply)
            if self._recorded:
                self._recorded.pop(receipt.seq, None)
            return None
        late = not self.owns(receipt)
        self.drop(receipt)
        if late:
            return SettlementLost("it was not renewed in time; it is delivered again")
        delay_s = 0.0
        if isinstance(settlement, Nack):
            delay_s = settlement.delay_s
            self._record(receipt.seq, settlement.carried)
        commands.append(command(receipt.reply, _nak(delay_s)))
        return None

    def give_back(self, receipts: Iterable[Receipt] | None = None) -> list[bytes]:
        """What to tell the server so that it delivers these, or all that are held, to others at once."""
        commands: list[bytes] = []
        for receipt in list(self._held.values()) if receipts is None else receipts:
            if self._held.get(receipt.seq) is receipt:
                self.drop(receipt)
                commands.append(command(receipt.reply, NAK))
        return commands

    # ------------------------------------------------------------------------------------------ time

    @property
    def is_due(self) -> bool:
        """Whether it is time to renew."""
        return self._now() - self._renewed_at >= self.ack_wait_s / 3

    def renew(self) -> list[bytes] | None:
        """What to tell the server so that it goes on waiting; None: some, and so all, is lost.

        Those that are not late are let go as well: the core forgets all of a generation that have not started.
        """
        lost = not all(map(self.owns, self._held.values()))
        self._renewed_at = self._now()
        if lost:
            self._held.clear()
            self.generation += 1
            return None
        return [command(receipt.reply, PROGRESS) for receipt in self._held.values()]

    # ------------------------------------------------------------------------------------------ failures

    def recorded(self, seq: int) -> Headers | None:
        """What the core knows of failures of a message. The server cannot store it, so it is known here alone."""
        return self._recorded.get(seq)

    def _record(self, seq: int, carried: Headers) -> None:
        if carried:
            self._recorded[seq] = carried
            if len(self._recorded) > RECORDED:
                del self._recorded[next(iter(self._recorded))]


def command(reply: bytes, what: bytes) -> bytes:
    """What the server is told of one message."""
    return b"PUB %b %d\r\n%b\r\n" % (reply, len(what), what)


_ACKED = command(b"", ACK)[4:]


def _nak(delay_s: float) -> bytes:
    return NAK if delay_s <= 0 else b'-NAK {"delay": %d}' % int(delay_s * SECOND)
