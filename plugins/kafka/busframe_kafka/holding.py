"""The partitions that one member of a group has: assigned, committed, given back. All of it on the member's thread.

Nothing may be raised out of a callback: an error of the client's is no exception there, and only a bare ``except``
catches what becomes of it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from busframe.errors import TransportError
from busframe_kafka.assignment import Partition, Record
from busframe_kafka.client import DENIED, KafkaError, KafkaException, TopicPartition, error_of

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How long a poll waits, and so how long whatever the loop asks may wait."""
ASK_S = 5.0
LEAVE_S = 2.0
"""How long who leaves tries to commit what is finished."""
AGAIN_S = 0.05
BEGINNING = -2

_SHARING = frozenset({KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION})


class Holding:
    """What a member has.

    Args:
        gap: of a topic: with so many fetched records above its oldest unfinished one a partition is fetched no further.
        begin: the offset at which a partition of this number begins where nothing is committed.
        revoke_timeout_s: how long to wait, when a partition goes to another member, for what is in flight of it.
        changed: told how many partitions there are, when that has changed; and whether some were assigned.
        lost: told when the membership is lost.
        dropped: told (topic, partition, how many records) were deleted before they were fetched.

    Attributes:
        lock: guards what the loop changes of partitions.
        wake: ends a wait of the thread.
        finished: records that the loop is done with.
        partitions: by topic and number.
        penned: those with records that may not be received yet.
        committed: what is committed of the partitions, as far as it was told.
        generation: counts how often everything was lost.
        paused: nothing is fetched.
        hurried: the member ends, and waits for nobody.
        commits: what is finished is committed.
    """

    def __init__(
        self,
        *,
        gap: Callable[[str], int],
        begin: Callable[[int], int],
        revoke_timeout_s: float,
        changed: Callable[[int, bool], None],
        lost: Callable[[], None],
        dropped: Callable[[str, int, int], None],
    ) -> None:
        self._gap = gap
        self._begin = begin
        self._revoke_timeout_s = revoke_timeout_s
        self._changed = changed
        self._lost = lost
        self._dropped = dropped
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.finished: deque[Record] = deque()
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.penned: dict[Partition, None] = {}
        self.committed: dict[tuple[str, int], int] = {}
        self.generation = 1
        self.paused = False
        self.hurried = False
        self.commits = True
        self._denied = False

    # ------------------------------------------------------------------------------------------------ offsets

    def least_room(self) -> int:
        """How many records may be fetched before one of the partitions is full: which it is of is not known before."""
        reading = (one for one in self.partitions.values() if not one.paused)
        return min((self._gap(one.topic) - one.gap for one in reading), default=1)

    def absorb(self, client: Any) -> None:
        """Store how far records are finished without a gap."""
        changed: dict[Partition, None] = {}
        finished = self.finished
        while finished:
            record = finished.popleft()
            record.partition.finish(record.offset)
            changed[record.partition] = None
        stored = []
        for partition in changed:
            if partition.owned and (commit := partition.advance()) is not None:
                stored.append(TopicPartition(partition.topic, partition.number, *commit))
            if partition.paused and partition.gap <= self._gap(partition.topic) // 2:
                partition.paused = False
                if not self.paused and partition.owned:
                    client.resume([TopicPartition(partition.topic, partition.number)])
        if stored:
            try:
                client.store_offsets(offsets=stored)
            except KafkaException as error:  # revoked meanwhile: then they are delivered again
                log.debug("offsets were not stored: %s", error)

    def commit(
        self, client: Any, commits: Mapping[tuple[str, int], tuple[int, str]]
    ) -> dict[tuple[str, int], KafkaError | None]:
        """Commit at once. Returns the partitions of which it was refused, and why: they are delivered again."""
        asked = [TopicPartition(topic, number, *commit) for (topic, number), commit in commits.items()]
        try:
            answers = client.commit(offsets=asked, asynchronous=False)
        except KafkaException as error:
            log.debug("a commit was refused: %s", error)
            self._look_at(error_of(error))
            return dict.fromkeys(commits, error_of(error))
        for one in answers or ():
            self._look_at(one.error)
        return {(one.topic, one.partition): one.error for one in answers or () if one.error is not None}

    def _look_at(self, error: KafkaError | None) -> None:
        if error is None:
            self._denied = False
        elif error.code() in DENIED and not self._denied:
            self._denied = True  # it stands still, as a member, until it may again or the group goes on without it
            log.warning("these credentials may not commit any more, and nothing is handed out: %s", error)

    def commit_now(self, client: Any) -> None:
        """On the thread: commit how far records are finished, and return when the server has it.

        Raises:
            TransportError: it has not.
        """
        self.absorb(client)
        if self._give_back(client, self.partitions.values()):
            raise TransportError("the server does not take the commit now")

    def commit_last(self, client: Any) -> None:
        """Commit before the member leaves: again, while the group goes on to a generation that is not heard of yet."""
        self.absorb(client)
        until = time.monotonic() + LEAVE_S
        while True:
            refused = self._give_back(client, self.partitions.values()).values()
            if time.monotonic() > until or not any(error and error.code() in _SHARING for error in refused):
                return
            client.consume(1, AGAIN_S)  # which hears of it; nothing is handed out any more

    def _give_back(self, client: Any, partitions: Iterable[Partition]) -> dict[tuple[str, int], KafkaError | None]:
        given = {(one.topic, one.number): commit for one in partitions if (commit := one.give_back()) is not None}
        return self.commit(client, given) if given else {}

    def on_commit(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        """The client's callback: the server has answered to a commit."""
        try:
            self._look_at(error)
            for one in offsets:
                self._look_at(one.error)
                if one.error is None and one.offset >= 0 and (one.topic, one.partition) in self.partitions:
                    self.committed[one.topic, one.partition] = one.offset
        except:  # noqa: E722  # nothing may leave a callback
            log.debug("an answer to a commit was not read", exc_info=True)

    def pause(self, client: Any, partitions: Iterable[Partition]) -> None:
        """Fetch nothing more of some."""
        if paused := [TopicPartition(one.topic, one.number) for one in partitions]:
            client.pause(paused)

    def resume(self, client: Any) -> None:
        """Fetch again, but for those that are paused alone."""
        self.paused = False
        if fetched := [TopicPartition(*key) for key, one in self.partitions.items() if not one.paused]:
            client.resume(fetched)

    def learn(self, client: Any, partitions: Sequence[Partition]) -> None:
        """Ask what is committed."""
        if not partitions:
            return
        try:
            answers = client.committed([TopicPartition(one.topic, one.number) for one in partitions], timeout=ASK_S)
        except KafkaException as error:
            log.debug("what is committed is not known yet: %s", error)
            self._look_at(error_of(error))
            return
        for partition, answer in zip(partitions, answers, strict=True):
            if answer.error is None:
                partition.remember(answer.offset, answer.metadata)

    def ready(self, *, beside: bool) -> tuple[list[Partition], dict[tuple[str, int], tuple[int, str]]]:
        """The partitions whose penned records may be received, and what must be committed before.

        A suspect comes alone, the worst of several first. What its neighbours came to is committed with its count: else
        they were counted with it when it kills, and one of them might be given up in its place.

        Args:
            beside: records that were handed over are not received yet.
        """
        ready = [one for one in self.penned if one.may_hand_over]
        partitions = self.partitions.values()
        commits: dict[tuple[str, int], tuple[int, str]] = {}
        if any(one.suspicious and (one.pen or one.in_flight) for one in partitions):
            if beside or any(one.in_flight for one in partitions):
                return [], {}
            if suspects := [one for one in ready if one.suspicious]:
                ready = [max(suspects, key=lambda one: one.suspicion)]
                commits = {key: commit for key, one in self.partitions.items() if (commit := one.progress())}
        commits |= {(one.topic, one.number): commit for one in ready if (commit := one.to_commit()) is not None}
        return ready, commits

    # ------------------------------------------------------------------------------------------------ assignments

    def on_assign(self, client: Any, assigned: Sequence[TopicPartition]) -> None:
        """The client's callback: these are ours now."""
        try:
            new = [Partition(one.topic, one.partition, self.generation) for one in assigned]
            self.learn(client, new)
            self.partitions.update({(one.topic, one.number): one for one in new})
            if new:
                # Said explicitly: where nothing is committed, nothing was handled, and it begins at the beginning.
                known = all(one.committed is not None for one in new)
                places = [TopicPartition(one.topic, one.number, self._first(one)) for one in new]
                self._assign(client, places if known else list(assigned))
            self._changed(len(self.partitions), True)
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("an assignment failed", exc_info=True)

    def _assign(self, client: Any, places: list[TopicPartition]) -> None:
        client.incremental_assign(places)
        # As the others are: whether one was paused when it was here before, the client does not forget.
        (client.pause if self.paused else client.resume)(places)

    def _first(self, partition: Partition) -> int:
        known = partition.next
        return self._begin(partition.number) if known is None else known

    def on_revoke(self, client: Any, revoked: Sequence[TopicPartition]) -> None:
        """The client's callback: these go to others, once what is in flight of them has ended."""
        leaving: list[Partition] = []
        try:
            leaving = self._leave(revoked)
            until = time.monotonic() + (0.0 if self.hurried else self._revoke_timeout_s)
            while any(one.in_flight for one in leaving) and time.monotonic() < until and not self.hurried:
                self.wake.wait(POLL_S)
                self.wake.clear()
            if self.commits:
                self.absorb(client)
                self._give_back(client, leaving)
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("giving partitions back failed", exc_info=True)
        self._forget(leaving)
        if not self.partitions:  # so what was received and not started is not started any more
            self.generation += 1
        self._changed(len(self.partitions), False)

    def on_lost(self, client: Any, revoked: Sequence[TopicPartition]) -> None:
        """The client's callback: these are others' already."""
        try:
            self._forget(self._leave(revoked))
            self.generation += 1
            self._lost()
        except:  # noqa: E722  # nothing may leave a callback
            log.warning("losing partitions failed", exc_info=True)

    def _leave(self, revoked: Sequence[TopicPartition]) -> list[Partition]:
        with self.lock:
            found = (self.partitions.get((one.topic, one.partition)) for one in revoked)
            leaving = [one for one in found if one is not None]
            for partition in leaving:
                partition.leaving = True
                partition.pen.clear()
                self.penned.pop(partition, None)
        return leaving

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            partition.owned = False
            self.partitions.pop((partition.topic, partition.number), None)
            self.committed.pop((partition.topic, partition.number), None)

    # ------------------------------------------------------------------------------------------------ what was deleted

    def begin_where_the_log_does(self, client: Any, topic: str, number: int) -> None:
        """What comes next was deleted, or nothing is committed: go on with the oldest there is."""
        partition = self.partitions.get((topic, number))
        if partition is None:
            return
        low, high = client.get_watermark_offsets(TopicPartition(topic, number), timeout=ASK_S)
        if partition.committed is None:
            self.learn(client, [partition])
        position = self._first(partition)
        client.incremental_unassign([TopicPartition(topic, number)])
        self._assign(client, [TopicPartition(topic, number, low)])
        if position > high:  # the log was cut short: what comes now has offsets that were used before
            self._forget(self._leave([TopicPartition(topic, number)]))
            anew = self.partitions[topic, number] = Partition(topic, number, self.generation)
            anew.remember(low, None)
            log.error("%s/%d ends at %d, before the committed %d", topic, number, high, position)
        elif BEGINNING < position < low:
            self._dropped(topic, number, low - position)
