"""How much one receiver asks for, of one consumer or of one for each partition."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from busframe_nats.client import Connection
from busframe_nats.pull import Pull

log = logging.getLogger(__name__)

SATURATED_S = 0.05


class Fetch:
    """Asks for messages as long as there is room for them.

    Args:
        pulls: one or, with order, one for each partition.
        held: how many messages are unsettled.
        prefetch: how many may be.
        most_bytes: what one source may ask for ahead.
        max_payload: the largest message.
        by_partition: each consumer has one message out at a time.
    """

    def __init__(
        self,
        pulls: Sequence[Pull],
        held: Callable[[], int],
        prefetch: int,
        most_bytes: int,
        max_payload: int,
        *,
        by_partition: bool,
    ) -> None:
        self.pulls = pulls
        self._held = held
        self._prefetch = prefetch
        self._most_bytes = most_bytes
        self._least_bytes = max_payload + 8192  # one always fits, or the server would answer that it does not, for ever
        self._by_partition = by_partition
        self._connection: Connection | None = None
        self._saturated: asyncio.TimerHandle | None = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Fetch {self._held()} held, {self._owed} owed of {self._prefetch}>"

    @property
    def _owed(self) -> int:
        return sum(pull.owed for pull in self.pulls)

    def begin(self, connection: Connection) -> None:
        """Ask over a new connection."""
        if not self._stopped:
            self._connection = connection
            for pull in self.pulls:
                pull.begin(connection)
            self.refill()

    def lost(self) -> None:
        """The connection is gone, and with it what was asked."""
        self._connection = None
        for pull in self.pulls:
            pull.lost()

    def stop(self) -> None:
        """Take back what was asked, and ask no more. Idempotent."""
        self._stopped = True
        self._withdraw()
        if self._saturated is not None:
            self._saturated.cancel()

    def resize(self, prefetch: int) -> None:
        """So many may be held from now on."""
        narrower = prefetch < self._prefetch
        self._prefetch = prefetch
        if narrower and self._held() + self._owed > prefetch:
            self._withdraw()
        self.refill()

    def refill(self) -> None:
        """Ask for as many as there is room for."""
        connection = self._connection
        if connection is None or self._stopped:
            return
        room = self._prefetch - self._held()
        if self._by_partition:
            self._refill_partitions(connection, room)
            return
        (pull,) = self.pulls
        room -= pull.owed
        if room > 0 and (not pull.owed or room >= self._prefetch // 4):
            if not pull.is_asking:
                pull.begin(connection)
            pull.request(room, max(self._least_bytes, self._most_bytes * room // self._prefetch))

    def watch(self) -> None:
        """Ask again where requests wait at a server that says nothing any more."""
        for pull in self.pulls:
            if self._connection is not None and pull.is_silent and not self._stopped:
                log.warning("requests for messages are not answered any more", extra={"subject": pull.subject})
                pull.begin(self._connection)
        self.refill()

    def _refill_partitions(self, connection: Connection, room: int) -> None:
        if room > 0:
            if self._saturated is not None:
                self._saturated.cancel()
                self._saturated = None
            for pull in self.pulls:
                if not pull.owed:
                    if not pull.is_asking:
                        pull.begin(connection)
                    pull.request(1, self._least_bytes)
        elif self._saturated is None and self._owed:
            # Others may have a free slot for what would only wait here.
            self._saturated = asyncio.get_running_loop().call_later(SATURATED_S, self._withdraw_saturated)

    def _withdraw_saturated(self) -> None:
        self._saturated = None
        if self._held() >= self._prefetch:
            self._withdraw()

    def _withdraw(self) -> None:
        for pull in self.pulls:
            pull.withdraw()
