"""The administration client as coroutines. It has a thread of its own, and answers by futures of that thread."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from busframe_kafka.client import (
    LATEST,
    UNKNOWN_TOPIC,
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConsumerGroupTopicPartitions,
    KafkaError,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicCollection,
    TopicPartition,
    error_of,
    translate,
)
from busframe_kafka.topology import TopicSpec

T = TypeVar("T")

log = logging.getLogger(__name__)

Partition = tuple[str, int]
"""(topic, number)."""

LEADER_S = 10.0
LOOK_AGAIN_S = 0.02
COORDINATOR_S = 0.1
CLOSE_S = 1.0
SERVE_S = 0.02

_NO_OFFSET = -1


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as it is.

    Attributes:
        topic_id: names this incarnation: a topic that is deleted and made again has another.
        partitions: how many.
        replication_factor: the least of its partitions.
        may: what these credentials may do with it, where that was asked and the server says it.
    """

    topic_id: str
    partitions: int
    replication_factor: int
    may: frozenset[AclOperation] | None = None


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """One setting as it is; ``stated``: somebody has said it, it is not the server's default."""

    value: str | None
    stated: bool


class Admin:
    """Asks and tells a cluster.

    Every method raises ``AccessDenied``, ``ConnectionFailed`` or another ``TransportError``. If cancelled, what was
    asked may still be done.

    Args:
        make: makes the client's own; called once.
        timeout_s: for one request.
    """

    def __init__(self, make: Callable[[], AdminClient], timeout_s: float) -> None:
        self._make = make
        self._timeout_s = timeout_s
        self._client: AdminClient | None = None
        self._unanswered: set[Future[Any]] = set()

    @property
    def client(self) -> AdminClient:
        """The client's own. It must outlive what it is asked."""
        if self._client is None:
            self._client = self._make()
        return self._client

    async def serve(self, pause_s: Callable[[], float]) -> None:
        """Let the client say what it thinks of its connections, for ever: it calls back only when it is polled."""
        while True:
            if self._client is not None:
                try:
                    self._client.poll(0)
                except:  # noqa: E722 - a KafkaError that left a callback is no BaseException
                    log.debug("the administration client could not be polled", exc_info=True)
            await asyncio.sleep(pause_s())

    async def close(self, *, unreachable: bool = False) -> None:
        """Let the client go, by a thread of its own once it has all answers; wait for that a moment. Idempotent.

        librdkafka (2.16) aborts the process when a description of topics or of the cluster arrives while its client
        ends.

        Args:
            unreachable: no answer can come.
        """
        client, self._client = self._client, None
        if client is None:
            return
        held, gone = [client], asyncio.Event()
        unanswered = () if unreachable else tuple(self._unanswered)
        del client
        loop = asyncio.get_running_loop()

        def let_go() -> None:
            wait(unanswered)
            held.clear()  # which ends its threads, and takes a moment
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(gone.set)

        threading.Thread(target=let_go, name="busframe kafka lets its client go", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await gone.wait()

    async def answer(self, topic: str) -> None:
        """See that a server answers, by asking for a topic, whether it is there or not.

        Not for the cluster: librdkafka (2.16) aborts the process when a server describes a cluster without brokers, as
        one does that is just starting (``rd_kafka_admin_response_parse``; an answer about a topic is never so empty).
        """
        asked = self.client.describe_topics(TopicCollection([topic]), request_timeout=self._timeout_s)
        (answer,) = (await self._all(asked)).values()
        if isinstance(answer, BaseException):
            error = error_of(answer)
            if error is None or error.code() not in _OF_A_TOPIC:
                raise translate(answer, "a server")

    async def topics(self, names: Iterable[str], *, rights: bool = False) -> dict[str, FoundTopic]:
        """The topics of these that exist.

        Args:
            names: of topics.
            rights: ask what these credentials may do with each as well.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        asked = self.client.describe_topics(
            TopicCollection(wanted), include_authorized_operations=rights, request_timeout=self._timeout_s
        )
        found: dict[str, FoundTopic] = {}
        for name, answer in (await self._all(asked)).items():
            if isinstance(answer, BaseException):
                error = error_of(answer)
                if error is None or error.code() not in UNKNOWN_TOPIC:
                    raise translate(answer, f"topic {name!r}")
            else:
                copies = min((len(partition.replicas) for partition in answer.partitions), default=0)
                may = frozenset(answer.authorized_operations) if answer.authorized_operations else None
                found[name] = FoundTopic(str(answer.topic_id), len(answer.partitions), copies, may)
        return found

    async def create(self, specs: Sequence[TopicSpec]) -> set[str]:
        """Create topics. Returns the names of those that were not there before."""
        if not specs:
            return set()
        new = [
            NewTopic(spec.name, spec.partitions, spec.replication_factor or -1, config=dict(spec.config))
            for spec in specs
        ]
        made: set[str] = set()
        for name, answer in (await self._all(self.client.create_topics(new, request_timeout=self._timeout_s))).items():
            if not isinstance(answer, BaseException):
                made.add(name)
                continue
            error = error_of(answer)
            if error is None or error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(answer, f"topic {name!r} cannot be created")
        return made

    async def configs(
        self, names: Iterable[str], kind: ResourceType = ResourceType.TOPIC
    ) -> dict[str, dict[str, FoundConfig]]:
        """The settings of topics (or brokers) that exist."""
        resources = [ConfigResource(kind, name) for name in dict.fromkeys(names)]
        if not resources:
            return {}
        asked = self.client.describe_configs(resources, request_timeout=self._timeout_s)
        found: dict[str, dict[str, FoundConfig]] = {}
        for resource, answer in (await self._all(asked)).items():
            if isinstance(answer, BaseException):
                raise translate(answer, f"the settings of {resource.name!r}")
            found[resource.name] = {
                name: FoundConfig(entry.value, not entry.is_default) for name, entry in answer.items()
            }
        return found

    async def alter(self, topic: str, config: Mapping[str, str]) -> None:
        """Set some settings of a topic, and leave the others."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        asked = self.client.incremental_alter_configs([resource], request_timeout=self._timeout_s)
        for answer in (await self._all(asked)).values():
            if isinstance(answer, BaseException):
                raise translate(answer, f"the settings of {topic!r} cannot be changed")

    async def partitions_of(self, topic: str) -> list[Partition]:
        """The partitions of a topic; none where it does not exist."""
        found = (await self.topics([topic])).get(topic)
        return [(topic, number) for number in range(found.partitions)] if found is not None else []

    async def offsets(self, partitions: Iterable[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        """Of each partition the offset that *spec* means; of a time later than all records, the end.

        A partition that is new may have no leader yet: it is asked again for a while.
        """
        asked = {TopicPartition(topic, number): spec for topic, number in partitions}
        found: dict[Partition, int] = {}
        deadline = asyncio.get_running_loop().time() + LEADER_S
        while asked:
            answers = await self._all(self.client.list_offsets(asked, request_timeout=self._timeout_s))
            asked = {}
            for place, answer in answers.items():
                if isinstance(answer, BaseException):
                    error = error_of(answer)
                    late = asyncio.get_running_loop().time() > deadline
                    if error is None or error.code() not in _NO_LEADER or late:
                        raise translate(answer, f"the offsets of {place.topic!r}")
                    asked[place] = spec
                elif answer.offset == _NO_OFFSET:
                    asked[place] = LATEST
                else:
                    found[place.topic, place.partition] = answer.offset
            if asked:
                await asyncio.sleep(LOOK_AGAIN_S)
        return found

    async def committed(self, group: str) -> dict[Partition, int]:
        """What a group has committed, of all its partitions."""
        answer = await self._of_coordinator(
            lambda client: client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout_s
            )
        )
        if (failed := _failure(answer)) is not None:
            raise translate(failed, f"the offsets of group {group!r}")
        return {(place.topic, place.partition): place.offset for place in answer.topic_partitions if place.offset >= 0}

    async def commit(self, group: str, offsets: Mapping[Partition, int]) -> bool:
        """Commit offsets of a group that nobody is in. Returns False where somebody is."""
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        if not places:
            return True
        answer = await self._of_coordinator(
            lambda client: client.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, places)], request_timeout=self._timeout_s
            )
        )
        failed = _failure(answer)
        if _code(failed) in _OCCUPIED:
            return False
        if failed is not None:
            raise translate(failed, f"the offsets of group {group!r}")
        return True

    async def members(self, group: str) -> int:
        """How many consumers a group has."""
        answer = await self._of_coordinator(
            lambda client: client.describe_consumer_groups([group], request_timeout=self._timeout_s)
        )
        if isinstance(answer, BaseException):
            if _code(answer) == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise translate(answer, f"group {group!r}")
        return len(answer.members)

    async def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Delete what is stored below offsets. What is gone already is no failure."""
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in before.items()]
        if not places:
            return
        asked = self.client.delete_records(places, request_timeout=self._timeout_s)
        for place, answer in (await self._all(asked)).items():
            if isinstance(answer, BaseException):
                error = error_of(answer)
                if error is None or error.code() != KafkaError.OFFSET_OUT_OF_RANGE:
                    raise translate(answer, f"records of {place.topic!r} cannot be deleted")

    async def _of_coordinator(self, ask: Callable[[AdminClient], Mapping[str, Future[Any]]]) -> Any:
        """The answer of a group's coordinator, or why there is none.

        One that is new to its groups, as on a server that has just started, is asked again for a while.
        """
        deadline = asyncio.get_running_loop().time() + LEADER_S
        while True:
            answer = await self._of_new_client(ask)
            late = asyncio.get_running_loop().time() > deadline
            if late or _code(_failure(answer)) not in _NO_COORDINATOR:
                return answer
            await asyncio.sleep(COORDINATOR_S)

    async def _of_new_client(self, ask: Callable[[AdminClient], Mapping[str, Future[Any]]]) -> Any:
        """The answer to a client that has never asked for a coordinator.

        One from before the server's restart may wait for ever (librdkafka 2.16), or abort the process at a late answer
        (its issue 4605); and one that was told that the coordinator is another one may go on asking the same.
        """
        other = Admin(self._make, self._timeout_s)
        serving = asyncio.create_task(other.serve(lambda: SERVE_S), name="busframe kafka asks a coordinator")
        try:
            (answer,) = (await other._all(ask(other.client))).values()
            return answer
        finally:
            serving.cancel()
            await other.close()

    async def _all(self, asked: Mapping[T, Future[Any]]) -> dict[T, Any]:
        """The answer to each, or why there is none."""
        for future in asked.values():
            self._unanswered.add(future)
            future.add_done_callback(self._unanswered.discard)
        answers = await asyncio.gather(*map(asyncio.wrap_future, asked.values()), return_exceptions=True)
        return dict(zip(asked, answers, strict=True))


_OF_A_TOPIC = UNKNOWN_TOPIC | {KafkaError.TOPIC_AUTHORIZATION_FAILED}
_NO_LEADER = UNKNOWN_TOPIC | {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
_NO_COORDINATOR = frozenset(
    {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
)
_OCCUPIED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)


def _failure(answer: Any) -> Any:
    """Why a group's coordinator did not do what it was asked, of one of its partitions too; None: it did."""
    if isinstance(answer, BaseException):
        return answer
    places = getattr(answer, "topic_partitions", None) or ()
    return next((place.error for place in places if place.error is not None), None)


def _code(failed: Any) -> int | None:
    error = error_of(failed)
    return error.code() if error is not None else None


async def first_answer(admin: Admin, topic: str, unreachable: asyncio.Event) -> bool:
    """Ask whether a server answers, and wait no longer when the client says meanwhile that none can be reached.

    Returns:
        Whether it does; False: *unreachable* was set first.
    """
    asking, giving_up = asyncio.ensure_future(admin.answer(topic)), asyncio.ensure_future(unreachable.wait())
    try:
        await asyncio.wait([asking, giving_up], return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
        return asking.done()
    finally:
        asking.cancel()
        giving_up.cancel()
