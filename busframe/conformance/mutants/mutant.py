"""What a mutant is: the memory transport with one promise broken.

A check that no mutant fails is no check. Each mutant names the checks that must fail on it, and what they must say, so
that they fail for the right reason.
"""

from collections.abc import Callable
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


class MutantReceiver(WrappedReceiver):
    """A receiver that does what another one does; a mutant changes one method."""

    def __init__(self, transport: "MutantTransport", inner: Receiver, entity: Entity) -> None:
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

    def __init__(self, transport: type[MutantTransport], name: str) -> None:
        super().__init__()
        self.name = f"memory, mutated: {name}"
        self._transport = transport

    def transport(self, host: Host) -> Transport:
        """A mutated client."""
        return self._transport(host, self.broker)


class PatchedHarness(MemoryHarness):
    """A right memory broker under a core of which one attribute is replaced between ``start`` and ``stop``."""

    patience = PATIENCE

    def __init__(self, name: str, owner: Any, attribute: str, replacement: object) -> None:
        super().__init__()
        self.name = f"memory, under a mutated core: {name}"
        self._patch = (owner, attribute, replacement)
        self._kept: object = None

    async def start(self) -> None:
        """Break the core."""
        owner, attribute, replacement = self._patch
        self._kept = vars(owner)[attribute]
        setattr(owner, attribute, replacement)

    async def stop(self) -> None:
        """Mend it."""
        owner, attribute, _ = self._patch
        setattr(owner, attribute, self._kept)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken promise.

    Attributes:
        name: of the class.
        wrong: what is wrong with it, in a sentence.
        caught_by: the checks that must fail.
        says: what the failure of each must match, as a regular expression.
        harness: makes its harness.
    """

    name: str
    wrong: str
    caught_by: tuple[str, ...]
    says: str
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


def mutant(wrong: str, *caught_by: str, says: str) -> Callable[[type[Any]], type[Any]]:
    """Register a mutant: a ``MutantTransport``, or a ``MutantReceiver`` of an otherwise right transport."""

    def register(kind: type[Any]) -> type[Any]:
        transport = kind
        if issubclass(kind, MutantReceiver):
            transport = type(kind.__name__, (MutantTransport,), {"receivers": kind})
        name = kind.__name__
        register_mutant(Mutant(name, wrong, caught_by, says, lambda: MutantHarness(transport, name)))
        return kind

    return register


def core_mutant(wrong: str, *caught_by: str, says: str, of: object, attribute: str) -> Callable[[F], F]:
    """Register what stands for an attribute of the core (of a class or module) while the mutant runs.

    For promises that the core keeps on top of every transport: no transport can break them.
    """

    def register(replacement: F) -> F:
        name = replacement.__name__
        harness = partial(PatchedHarness, name, of, attribute, replacement)
        register_mutant(Mutant(name, wrong, caught_by, says, harness))
        return replacement

    return register
