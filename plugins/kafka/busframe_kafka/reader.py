"""Reading partitions from a place to their end, apart from any group: for the registry and for looking at letters."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from busframe.errors import TransportError
from busframe_kafka.client import BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition, translate

TIMEOUT_S = 15.0
_POLL_S = 0.1
_BATCH = 1000


def read_to_end(
    make: Callable[[], Consumer], starts: Mapping[tuple[str, int], int | None]
) -> tuple[list[Any], dict[tuple[str, int], int]]:
    """The client's messages from the given offsets (None: the beginning) to the end, and the offsets that follow.

    Blocks: call it in a thread of its own.

    Args:
        make: makes a consumer that is told the end of each partition.
        starts: (topic, partition) → where to begin.

    Raises:
        TransportError: a partition cannot be read, or nothing came for ``TIMEOUT_S``.
    """
    if not starts:
        return [], {}
    consumer = make()
    try:
        for topic in {topic for topic, _ in starts}:
            with suppress(KafkaException):  # it is told below what is wrong
                # Without a known leader the client asks for the first offset again only after half a second.
                consumer.list_topics(topic, timeout=TIMEOUT_S)
        consumer.assign(
            [TopicPartition(*place, BEGINNING if start is None else start) for place, start in starts.items()]
        )
        messages: list[Any] = []
        following = {place: start or 0 for place, start in starts.items()}
        left, deadline = set(starts), time.monotonic() + TIMEOUT_S
        while left:
            # The client looks for its group's coordinator though it joins no group: that may well be forbidden.
            # All at once would wait for as many, or for the whole time.
            read = consumer.consume(1, _POLL_S)
            read += consumer.consume(_BATCH, 0) if read else []
            got = [one for one in read if not _of_group(one.error())]
            if got:
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise TransportError(f"{sorted(left)} cannot be read: the end did not come in {TIMEOUT_S} s")
            for message in got:
                place = (str(message.topic()), int(message.partition() or 0))
                error = message.error()
                if error is None:
                    messages.append(message)
                    following[place] = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    following[place] = max(following[place], message.offset() or 0)
                    left.discard(place)
                else:
                    raise translate(error, f"{place[0]!r} cannot be read")
        return messages, following
    finally:
        consumer.close()


def _of_group(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
