"""The administration client, against one that answers as it is told."""

from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException

from busframe.errors import TransportError
from busframe_kafka import admin
from busframe_kafka.admin import Admin

LOADS = KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
GROUP = "emails"


class Coordinator:
    """Answers each question about a group with the next of its answers, and then always with the last."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def poll(self, timeout_s: float) -> int:
        """Nothing happens."""
        return 0

    def _answer(self) -> dict[str, Future[Any]]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        future: Future[Any] = Future()
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return {GROUP: future}

    def list_consumer_group_offsets(self, asked: Any, *, request_timeout: float) -> dict[str, Future[Any]]:
        """What is committed."""
        return self._answer()

    def alter_consumer_group_offsets(self, asked: Any, *, request_timeout: float) -> dict[str, Future[Any]]:
        """Commit."""
        return self._answer()


class Place(NamedTuple):
    """What is said of one partition; the client's own class cannot be given an error."""

    partition: int
    offset: int
    error: KafkaError | None = None
    topic: str = "emails"


class Answer:
    """What a coordinator says of a group."""

    def __init__(self, *places: Place) -> None:
        self.topic_partitions = places


def _admin(coordinator: Any) -> Admin:
    return Admin(lambda: coordinator, 1.0)


@pytest.mark.parametrize("new", [LOADS, KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))])
async def test_a_coordinator_that_loads_its_groups_is_asked_again(new: Exception) -> None:
    """As it does after a server's start, and when its leader has changed."""
    coordinator = Coordinator(new, new, Answer(Place(0, 7), Place(1, -1001)))
    assert await _admin(coordinator).committed(GROUP) == {("emails", 0): 7}
    assert coordinator.asked == 3


async def test_also_where_it_says_so_of_a_partition() -> None:
    """A commit is answered for each partition."""
    loads = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    coordinator = Coordinator(Answer(Place(0, 7), Place(1, 9, loads)), Answer(Place(0, 7), Place(1, 9)))
    assert await _admin(coordinator).commit(GROUP, {("emails", 0): 7, ("emails", 1): 9})
    assert coordinator.asked == 2


async def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it says what the server says."""
    monkeypatch.setattr(admin, "LEADER_S", 0.1)
    with pytest.raises(TransportError, match="the offsets of group 'emails'"):
        await _admin(Coordinator(LOADS)).committed(GROUP)


async def test_somebody_in_the_group_is_no_failure() -> None:
    """Its commit stands, and ours is not made."""
    coordinator = Coordinator(Answer(Place(0, 7, KafkaError(KafkaError.UNKNOWN_MEMBER_ID))))
    assert not await _admin(coordinator).commit(GROUP, {("emails", 0): 7})
    assert coordinator.asked == 1
