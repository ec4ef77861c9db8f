"""The brokers whose servers are killed, and what is asked of each besides the account."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.brokers.kafka import Kafka
from tests.brokers.nats import NATS
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.server import Server
from tests.faults.account import Allowance, Prefetch, Run
from tests.faults.app import PREFETCH
from tests.faults.offsets import Committed, Offsets
from tests.faults.workers import Journal


class Killed(ABC):
    """A broker on one server.

    Attributes:
        server: that is stopped and killed.
        url: of processes that are killed.
        allowance: what a fault may bring back.
        attempt_exact: being delivered again counts as no attempt.
    """

    server: Server
    url: str
    allowance: Allowance
    attempt_exact: bool = True

    @abstractmethod
    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside of this it is killed; all sources are declared."""

    def settled_too_early(self, journal: Journal) -> list[int]:
        """The messages that the server takes for handled, and that are not; as far as it can be asked."""
        return []

    def begun_too_late(self, runs: Sequence[Run]) -> list[int]:
        """The messages that a handler began long after the server took them for handled; as far as it can be asked."""
        return []


class KilledRabbitMQ(Killed):
    """What a worker prefetches comes again."""

    def __init__(self, server: RabbitMQ) -> None:
        self.server = self._rabbitmq = server
        self.url = f"{server.url}?reconnect_max_s=1"
        self.allowance = Prefetch(PREFETCH)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See ``Killed.watched``."""
        self._rabbitmq.persist_declarations()
        yield


class KilledKafka(Killed):
    """What is not committed comes again, to whoever gets the partitions once a killed worker's session is over."""

    def __init__(self, server: Kafka) -> None:
        self.server = server
        self.url = f"{server.url}?session_timeout_s=4&reconnect_max_s=1"
        self._offsets = Offsets(server.url, "jobs")
        self.allowance = Committed(self._offsets)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See ``Killed.watched``."""
        with self._offsets.followed():
            yield

    def settled_too_early(self, journal: Journal) -> list[int]:
        """See ``Killed.settled_too_early``."""
        return self._offsets.unfinished(journal)

    def begun_too_late(self, runs: Sequence[Run]) -> list[int]:
        """See ``Killed.begun_too_late``."""
        return self._offsets.begun_too_late(runs)


class KilledNATS(Killed):
    """What a killed worker held comes again after ``ack_wait_s``."""

    attempt_exact = False

    def __init__(self, server: NATS) -> None:
        self.server = server
        self.url = f"{server.url}?reconnect_max_s=1&ack_wait_s=3"
        self.allowance = Prefetch(PREFETCH)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See ``Killed.watched``."""
        yield
