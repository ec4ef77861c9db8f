"""What a mutant is: a transport, or the core on it, with one promise broken.

A check that no mutant fails is no check. Each mutant names the checks that must fail on it, and what they must say, so
that they fail for the right reason. Most are of the memory transport; ``server`` has those of any transport, for checks
that need a server.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from busframe.conformance.memory import MemoryHarness
from busframe.conformance.wrapped import WrappedReceiver
from busframe.memory import MemoryTransport
from busframe.model.entity import Entity
from busframe.spi.transport import Host, Receiver, Transport

F = TypeVar("F", bound=Callable[..., Any])


PATIENCE = 0.2
"""Of mutants: what is broken never comes, so that waiting for it as long as for a slow broker is waste."""
SOAK_S = 1.0
"""Of mutants: they are wrong from the beginning."""


class MutantReceiver(WrappedReceiver):
    """A receiver that does what another one does; a mutant changes one method."""

    def __init__(self, transport: Transport, inner: Receiver, entity: Entity) -> None:
        super().__init__(inner)
        self.transport = transport
        self.entity = entity


class MutantTransport(MemoryTransport):
    """The memory transport; a mutant changes one method, or names another class of receivers."""

    receivers: type[MutantReceiver] | None = None

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """A receiver of the mutant's kind."""
        inner = super().receiver(entity, prefetch=prefetch, ack=ack)
        return inner if self.receivers is None else self.receivers(self, inner, entity)


class MutantHarness(MemoryHarness):
    """Makes mutated clients of a memory broker; what is native stays right."""

    patience = PATIENCE
    soak_s = SOAK_S

    def __init__(self, transport: type[MutantTransport], name: str) -> None:
        super().__init__()
        self.name = f"memory, mutated: {name}"
        self._transport = transport

    def transport(self, host: Host) -> Transport:
        """A mutated client."""
        return self._transport(host, self.broker)


@dataclass(frozen=True, slots=True)
class Patch:
    """What stands for an attribute of the core, of a class or module."""

    owner: Any
    attribute: str
    replacement: object

    def apply(self) -> object:
        """Break it for good. Returns what was there."""
        kept = vars(self.owner)[self.attribute]
        setattr(self.owner, self.attribute, self.replacement)
        return kept

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break it for the block."""
        kept = self.apply()
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, kept)


class PatchedHarness(MemoryHarness):
    """A right memory broker under a core of which one attribute is replaced between ``start`` and ``stop``."""

    patience = PATIENCE

    def __init__(self, name: str, patch: Patch) -> None:
        super().__init__()
        self.name = f"memory, under a mutated core: {name}"
        self._applied = patch.applied()

    async def start(self) -> None:
        """Break the core."""
        self._applied.__enter__()

    async def stop(self) -> None:
        """Mend it."""
        self._applied.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken promise.

    Attributes:
        name: of what breaks it.
        wrong: what is wrong with it, in a sentence.
        caught_by: the checks that must fail.
        says: what the failure of each must match, as a regular expression.
    """

    name: str
    wrong: str
    caught_by: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class MemoryMutant(Mutant):
    """One of the memory transport.

    Attributes:
        harness: makes its harness.
    """

    harness: Callable[[], MemoryHarness]


MUTANTS: dict[str, Mutant] = {}
"""All mutants, by name."""


def register_mutant(mutant: Mutant) -> None:
    """Make a mutant known.

    Raises:
        ValueError: there is one of its name: one of them would never be tried.
    """
    if mutant.name in MUTANTS:
        raise ValueError(f"two mutants are called {mutant.name}")
    MUTANTS[mutant.name] = mutant


def mutant(
    wrong: str, *caught_by: str, says: str, harness: Callable[[type[Any], str], MemoryHarness] = MutantHarness
) -> Callable[[type[Any]], type[Any]]:
    """Register a mutant: a ``MutantTransport``, or a ``MutantReceiver`` of an otherwise right transport.

    Args:
        wrong: see ``Mutant``.
        caught_by: see ``Mutant``.
        says: see ``Mutant``.
        harness: makes the harness of the transport from its class and name.
    """

    def register(kind: type[Any]) -> type[Any]:
        transport = kind
        if issubclass(kind, MutantReceiver):
            transport = type(kind.__name__, (MutantTransport,), {"receivers": kind})
        name = kind.__name__
        register_mutant(MemoryMutant(name, wrong, caught_by, says, partial(harness, transport, name)))
        return kind

    return register


def harness_mutant(wrong: str, *caught_by: str, says: str) -> Callable[[type[MemoryHarness]], type[MemoryHarness]]:
    """Register a mutant whose broker is wrong, and not its transport."""

    def register(kind: type[MemoryHarness]) -> type[MemoryHarness]:
        kind.name = f"memory, mutated: {kind.__name__}"
        kind.patience = PATIENCE
        register_mutant(MemoryMutant(kind.__name__, wrong, caught_by, says, kind))
        return kind

    return register


def core_mutant(wrong: str, *caught_by: str, says: str, of: object, attribute: str) -> Callable[[F], F]:
    """Register what stands for an attribute of the core (of a class or module) while the mutant runs.

    For promises that the core keeps on top of every transport: no transport can break them.
    """

    def register(replacement: F) -> F:
        name = replacement.__name__
        harness = partial(PatchedHarness, name, Patch(of, attribute, replacement))
        register_mutant(MemoryMutant(name, wrong, caught_by, says, harness))
        return replacement

    return register
