"""What can be wrong with T."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import PATIENCE, MutantTransport, core_mutant, harness_mutant, mutant
from busframe.model.delivery import Outgoing
from busframe.runtime.counters import Counters
from busframe.spi.transport import Host, Transport


@mutant("headers of a trace stop at the broker", "T1", says="the trace .* is '' in attempt 1")
class StopsTraces(MutantTransport):
    """As a client that has tracing of its own, turned off."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Without them."""
        return await super().publish([_untraced(out) for out in outgoing], timeout_s=timeout_s)


def _untraced(out: Outgoing) -> Outgoing:
    headers = {name: value for name, value in out.message.headers.items() if not name.startswith("trace")}
    return replace(out, message=replace(out.message, headers=headers))


@core_mutant(
    "what was discarded counts as handled", "T1", says="the counts are .*happened", of=Counters, attribute="snapshot"
)
def counts_too_well(counters: Counters) -> dict[str, int]:
    """In place of the counts by name."""
    return asdict(counters) | {"handled": counters.handled + counters.discarded}


@harness_mutant("an outage is told to nobody", "T1", says="not within .*a report that the connection is down")
class TellsNoOutage(MemoryHarness):
    """As a client that reconnects silently."""

    patience = PATIENCE
    url = "memory://localhost"


@harness_mutant("an outage is told of what nobody knows", "T1", says="the connection is down, and health says")
class TellsOfALink(MemoryHarness):
    """As a transport that has names of its own for what is up and down."""

    patience = PATIENCE
    url = "memory://localhost"

    def __init__(self) -> None:
        super().__init__()
        self._hosts: list[Host] = []

    def transport(self, host: Host) -> Transport:
        """A right client, of which the host is kept."""
        self._hosts.append(host)
        return super().transport(host)

    async def disconnect(self) -> None:
        """Tell each client's host."""
        for host in self._hosts:
            host.report("link", "down", None)
