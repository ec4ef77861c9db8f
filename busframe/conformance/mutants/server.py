"""Mutants of any transport whose broker is a server, for checks that stop it, cut it off, or start processes on it.

They are wrong in the process of the checks and in those that the checks start, which call ``install`` first. To try
them takes a harness of a real broker: ``with mutated(harness, mutant): await run_check(…)``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from busframe.conformance.harness import Harness
from busframe.conformance.mutants.mutant import (
    MUTANTS,
    PATIENCE,
    F,
    Mutant,
    MutantReceiver,
    Patch,
    register_mutant,
)
from busframe.conformance.wrapped import WrappedTransport, change_transports
from busframe.model.entity import Entity
from busframe.spi.transport import Host, Receiver, Transport


class ServerTransport(WrappedTransport):
    """Does what another transport does; a mutant changes one method, or names another class of receivers."""

    receivers: type[MutantReceiver] | None = None

    def __init__(self, make: Callable[[Host], Transport], host: Host) -> None:
        super().__init__(make(host), lambda receiver: receiver)

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """A receiver of the mutant's kind."""
        inner = super().receiver(entity, prefetch=prefetch, ack=ack)
        return inner if self.receivers is None else self.receivers(self, inner, entity)


class Change(Protocol):
    """What breaks the promise."""

    def install(self, scheme: str) -> None:
        """Break it for good, in this process, on transports for URLs of a scheme."""

    def installed(self, harness: Harness) -> Any:
        """A context manager: break it for the block, in what this harness makes."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """Another transport round each one."""

    kind: type[ServerTransport]

    def install(self, scheme: str) -> None:
        """See ``Change.install``."""
        change_transports(scheme, self.kind)

    @contextmanager
    def installed(self, harness: Harness) -> Iterator[None]:
        """See ``Change.installed``."""
        right = harness.transport, harness.watchful
        harness.transport, harness.watchful = (partial(self.kind, make) for make in right)  # type: ignore[method-assign]
        try:
            yield
        finally:
            harness.transport, harness.watchful = right  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class CoreChange:
    """Another attribute of the core."""

    patch: Patch

    def install(self, scheme: str) -> None:
        """See ``Change.install``."""
        self.patch.apply()

    def installed(self, harness: Harness) -> Any:
        """See ``Change.installed``."""
        return self.patch.applied()


@dataclass(frozen=True, slots=True)
class ServerMutant(Mutant):
    """One of any transport on a server.

    Attributes:
        change: what breaks it.
    """

    change: Change


@contextmanager
def mutated(harness: Harness, mutant: ServerMutant) -> Iterator[None]:
    """Let the clients of a harness be mutants for the block, also in processes that checks start."""
    kept = harness.patience, harness.preload
    harness.patience = PATIENCE
    harness.preload = (f"{__name__}:install", mutant.name, harness.scheme)
    try:
        with mutant.change.installed(harness):
            yield
    finally:
        harness.patience, harness.preload = kept


def install(name: str, scheme: str) -> None:
    """Let all clients that this process makes be mutants."""
    mutant = MUTANTS[name]
    assert isinstance(mutant, ServerMutant)
    mutant.change.install(scheme)


def server_mutant(wrong: str, *caught_by: str, says: str) -> Callable[[type[Any]], type[Any]]:
    """Register a mutant: a ``ServerTransport``, or a ``MutantReceiver`` of an otherwise right transport."""

    def register(kind: type[Any]) -> type[Any]:
        transport = kind
        if issubclass(kind, MutantReceiver):
            transport = type(kind.__name__, (ServerTransport,), {"receivers": kind})
        register_mutant(ServerMutant(kind.__name__, wrong, caught_by, says, Wrap(transport)))
        return kind

    return register


def server_core_mutant(wrong: str, *caught_by: str, says: str, of: object, attribute: str) -> Callable[[F], F]:
    """Register what stands for an attribute of the core (of a class or module) while the mutant runs."""

    def register(replacement: F) -> F:
        change = CoreChange(Patch(of, attribute, replacement))
        register_mutant(ServerMutant(replacement.__name__, wrong, caught_by, says, change))
        return replacement

    return register
