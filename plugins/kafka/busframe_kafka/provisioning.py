"""Compares what an application needs with what the cluster has, and makes what is missing. Nothing is ever deleted."""

from collections.abc import Sequence

from busframe.errors import TopologyMismatch
from busframe.model.destination import Queue, Subscription
from busframe.model.entity import Change, Entity
from busframe_kafka.admin import Admin
from busframe_kafka.settings import Settings
from busframe_kafka.topology import Names, TopicSpec, retry_spec, spec_of, wait_specs

RETRY = "retry topic"


class Provisioning:
    """Plans and applies.

    Args:
        admin: asks and tells the cluster.
        names: of topics and groups.
        settings: of what is created.
    """

    def __init__(self, admin: Admin, names: Names, settings: Settings) -> None:
        self._admin = admin
        self._names = names
        self._settings = settings

    async def make_ladder(self) -> None:
        """Create the topics of delays."""
        await self._admin.create(wait_specs(self._names, self._settings))

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``."""
        wanted: list[tuple[Entity, str | None, TopicSpec]] = []
        for entity in entities:
            spec = spec_of(entity, self._names, self._settings)
            if spec is not None:
                wanted.append((entity, None, spec))
            if isinstance(entity.address, Queue | Subscription):
                wanted.append((entity, RETRY, retry_spec(entity.address, entity, self._names, self._settings)))
        found = await self._admin.topics(spec.name for _, _, spec in wanted)
        return [Change(entity.address, "create", part, spec) for entity, part, spec in wanted if spec.name not in found]

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        conflicts = [str(change) for change in changes if change.action == "conflict"]
        if conflicts:
            raise TopologyMismatch(conflicts)
        await self._admin.create([change.wanted for change in changes if isinstance(change.wanted, TopicSpec)])
