"""What a source holds, as its stream and its consumers say."""

import asyncio
from datetime import UTC, datetime

from busframe.logic import wire
from busframe.model.destination import DeadLetters, Queue, SourceAddress
from busframe.model.entity import Stats
from busframe_nats.answers import JetStream
from busframe_nats.topology import Names, partitions_of


async def read_stats(jetstream: JetStream, names: Names, source: SourceAddress) -> Stats | None:
    """What waits, delayed retries included, and what is in flight; None: the source does not exist.

    The server does not say how many consume: only how many requests for messages wait.
    """
    stream = names.stream(source)
    info = await jetstream.stream(stream)
    if info is None:
        return None
    found = await jetstream.consumer(stream, names.consumer(source))
    consumers = [found] if found is not None else []
    if found is None and not isinstance(source, DeadLetters):
        asked = names.consumers(source, partitions_of(info["config"]))
        consumers = [each for each in await asyncio.gather(*(jetstream.consumer(stream, one) for one in asked)) if each]
    if not consumers and not isinstance(source, DeadLetters | Queue):
        return None
    state = info["state"]
    in_flight = sum(int(each["num_ack_pending"]) for each in consumers)
    if consumers:
        depth = sum(int(each["num_pending"]) for each in consumers)
    else:
        depth = int(state["messages"])
    first = wire.parse_time(state.get("first_ts"))
    age_s = (datetime.now(UTC) - first).total_seconds() if first is not None and depth + in_flight else 0.0
    return Stats(depth=depth, in_flight=in_flight, oldest_age_s=max(0.0, age_s))
