"""The window of records, with a client that refuses."""

import asyncio
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from busframe.errors import PublishFailed
from busframe_kafka.entry import Entry
from busframe_kafka.mapping import OwnHeaders
from busframe_kafka.producer import PipelinedProducer
from tests.support.transports import DEADLINE_S

RECORD: tuple[str, bytes, bytes, OwnHeaders] = ("emails", b"key", b"body", {"bf-id": b"1"})


class Client:
    """Takes records and reports them as stored.

    Args:
        refusals: raised instead by the next calls of ``produce``, one each; None: this one is taken.
    """

    def __init__(self, *refusals: BaseException | None) -> None:
        self._refusals = list(refusals)
        self._reports: list[Any] = []
        self.got: list[Any] = []

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Any, on_delivery: Any) -> None:
        """Take a record, or refuse it."""
        if self._refusals and (refusal := self._refusals.pop(0)) is not None:
            raise refusal
        self.got.append((topic, key, value, headers))
        self._reports.append(on_delivery)

    def poll(self, timeout_s: float) -> int:
        """Report."""
        reports, self._reports = self._reports, []
        for report in reports:
            report(None, None)
        time.sleep(0.001)
        return len(reports)

    def purge(self) -> None:
        """There is nothing."""


def _entry() -> Entry:
    return Entry(*RECORD)


async def test_what_was_refused_goes_out_whole() -> None:
    """The client had no room, and then it was broken for good: the next one gets all of the record."""
    fatal = KafkaException(KafkaError(KafkaError._FATAL))
    clients = [first := Client(None, BufferError(), fatal), second := Client()]
    producer = PipelinedProducer(lambda: clients.pop(0), 10, 1000)  # type: ignore[arg-type,return-value]
    async with asyncio.timeout(DEADLINE_S):
        assert await producer.write([_entry(), _entry(), _entry()], DEADLINE_S) == [None] * 3
    assert (first.got, second.got) == ([RECORD], [RECORD, RECORD])
    assert producer.rebuilt == 1
    await producer.close()


async def test_a_client_that_cannot_be_made_fails_its_record_alone() -> None:
    """Such as where the system has no thread left; the next record finds one."""
    client = Client()

    def make() -> Any:
        if not failed:
            failed.append(1)
            raise RuntimeError("can't start new thread")
        return client

    failed: list[int] = []
    producer = PipelinedProducer(make, 10, 1000)
    (outcome,) = await producer.write([_entry()], DEADLINE_S)
    assert isinstance(outcome, PublishFailed)
    assert await producer.write([_entry()], DEADLINE_S) == [None]
    await producer.close()
