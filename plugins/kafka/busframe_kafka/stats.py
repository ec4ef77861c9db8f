"""What sources hold, and what the cluster's confirmation is worth."""

import asyncio
from collections.abc import Sequence

from busframe.errors import DestinationNotFound, TransportError
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Subscription
from busframe.model.entity import Finding, Stats
from busframe_kafka.admin import Admin, FoundConfig, FoundTopic, Partition
from busframe_kafka.client import EARLIEST, LATEST
from busframe_kafka.letters import Letters
from busframe_kafka.registry import Registry
from busframe_kafka.topology import Names

SHORT_RETENTION_S = 24 * 3600.0


class Statistics:
    """Asks a cluster.

    Args:
        admin: who asks.
        registry: where subscriptions begin.
        letters: counts dead letters.
        names: of topics and groups.
    """

    def __init__(self, admin: Admin, registry: Registry, letters: Letters, names: Names) -> None:
        self._admin = admin
        self._registry = registry
        self._letters = letters
        self._names = names

    async def of(self, source: SourceAddress) -> Stats:
        """See ``Transport.stats``."""
        group = self._names.group(source)
        consumers = await self._admin.members(group)
        if isinstance(source, DeadLetters):
            return Stats(depth=len(await self._letters.keys(source)), consumers=consumers)
        depth = await self._depth(source)
        try:
            dead: int | None = len(await self._letters.keys(source.dead_letters))
        except DestinationNotFound:
            dead = None
        return Stats(depth=depth, consumers=consumers, dead=dead)

    async def _depth(self, source: Queue[object] | Subscription[object]) -> int:
        topic = self._names.topic(source)
        found = await self._admin.topics([topic, self._names.retry(source)])
        if topic not in found:
            raise DestinationNotFound(str(source))
        places: list[Partition] = [(name, number) for name, each in found.items() for number in range(each.partitions)]
        ends = await self._admin.offsets(places, LATEST)
        starts = await self._admin.offsets(places, EARLIEST)
        committed = await self._admin.committed(self._names.group(source))
        committed |= await self._admin.committed(self._names.retry(source))  # its topic and its group have one name
        declared = (await self._registry.catch_up()).declared(self._names.group(source), found[topic].topic_id)
        depth = 0
        for place in places:
            begin = committed.get(place)
            if begin is None and declared is not None and place[0] == topic:
                begin = declared.positions.get(place[1])
            depth += max(0, ends[place] - max(starts[place], begin or 0))
        return depth

    async def diagnose(self) -> Sequence[Finding]:
        """See ``Transport.diagnose``: of the topics that are declared under this prefix, and of who consumes them."""
        entries = await self._registry.catch_up()
        names = sorted(entries.topics())
        try:
            found = await self._admin.topics([self._names.registry, *names])
            configs = await self._admin.configs(found)
            sources = {group: topic for group, topic in sorted(entries.sources().items()) if topic in found}
            members = await asyncio.gather(*map(self._admin.members, sources))
        except TransportError as error:
            return [Finding("warn", "topics", f"their settings cannot be read: {error}")]
        findings = [finding for name, each in found.items() for finding in judge(name, each, configs.get(name, {}))]
        if not findings:
            findings.append(Finding("ok", "topics", "each message is on several servers before it is confirmed"))
        for (group, topic), consumers in zip(sources.items(), members, strict=True):
            if consumers > (partitions := found[topic].partitions):
                says = f"consumers: {consumers}, partitions: {partitions}; who has no partition gets nothing new"
                more = f"kafka-topics.sh --alter --topic {topic} --partitions {consumers}"
                findings.append(Finding("warn", group, says, f"{more}; with an order of keys, a new name instead"))
        return findings


def judge(topic: str, found: FoundTopic, config: dict[str, FoundConfig]) -> list[Finding]:
    """What a topic's settings mean for what was confirmed."""
    findings: list[Finding] = []

    def value(name: str) -> str:
        return (config[name].value if name in config else None) or ""

    if found.replication_factor == 1:
        findings.append(
            Finding(
                "warn",
                topic,
                "its messages are on one server alone, and are lost with its disk",
                "replication_factor = 3 for new topics; kafka-reassign-partitions.sh for this one",
            )
        )
    elif value("min.insync.replicas") == "1":
        findings.append(
            Finding(
                "warn",
                topic,
                "min.insync.replicas is 1: while other servers are behind, only the leader has what is confirmed",
                "min_insync_replicas = 2, or set it on the topic",
            )
        )
    if value("unclean.leader.election.enable") == "true":
        findings.append(
            Finding(
                "warn",
                topic,
                "unclean.leader.election.enable: a server that is behind may lead, and confirmed messages are lost",
                "set it to false",
            )
        )
    retention = value("retention.ms")
    limited = retention not in ("", "-1") and "delete" in value("cleanup.policy")
    if limited and int(retention) < SHORT_RETENTION_S * 1000:
        hours = int(retention) / 3_600_000
        findings.append(
            Finding(
                "warn",
                topic,
                f"messages are deleted after {hours:.1f} h, handled or not",
                "a longer retention_s: longer than any outage of its subscribers",
            )
        )
    return findings
