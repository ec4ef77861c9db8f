"""What can be wrong with filters."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.model.destination import Subscription
from busframe.model.entity import Change, Entity
from busframe.runtime import handle


@mutant("the filter is dropped", "V15", says="not within .*deliveries|where={'region': 'eu'} took")
class DropsFilters(MutantTransport):
    """As a transport that stores none, and says that it has."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Every subscription takes everything."""
        return await super().plan(
            [
                replace(entity, address=entity.address.topic.subscription(entity.address.name))
                if isinstance(entity.address, Subscription)
                else entity
                for entity in entities
            ]
        )


@mutant("only the first value of a filter is kept", "V15", says="not within .*deliveries")
class KeepsFirstValues(MutantTransport):
    """As a broker whose filters have one value for a name."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Every name has one value."""
        return await super().plan([replace(entity, address=_narrowed(entity.address)) for entity in entities])


def _narrowed(address: Any) -> Any:
    if not isinstance(address, Subscription):
        return address
    where = {name: values[0] for name, values in address.where.items()}
    return address.topic.subscription(address.name, where=where)


@mutant("a changed filter is not stored", "V15", says="not within .*the changed filter takes two|changed from .* took")
class KeepsOldFilters(MutantTransport):
    """As a transport that declares and never compares."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Only what is new."""
        await super().apply([change for change in changes if change.action == "create"])


@core_mutant(
    "what waits was taken once, and is handled", "V15", says="changed from .* took", of=handle, attribute="matches"
)
def matches_everything(*_: object) -> bool:
    """In place of a look at the stored filter when a message comes."""
    return True


@mutant("a worker goes by the filter that it began with", "V24", says="lost to an old worker's filter: 3 messages")
class KeepsToItsFilter(MutantReceiver):
    """As a client that reads the stored filter once."""

    _where: Any = None

    async def open(self) -> None:
        """Reads it."""
        await self.inner.open()
        self._where = self.inner.where

    @property
    def where(self) -> Any:  # type: ignore[override]
        """As it was."""
        return self._where


@mutant("a worker goes by its own filter where that is wide", "V24", says="lost to an old worker's filter: 3 messages")
class KeepsToItsWideFilter(KeepsToItsFilter):
    """As a client that lets the broker hold a few values, and takes everything where there are more."""

    @property
    def where(self) -> Any:  # type: ignore[override]
        """As it was, if the broker would not hold it."""
        wide = self._where is not None and any(len(values) > 32 for values in self._where.values())
        return self._where if wide else self.inner.where
