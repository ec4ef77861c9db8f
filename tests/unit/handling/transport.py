"""A transport that keeps what it is given."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from busframe.codecs import Codecs
from busframe.handling.outlet import Outlet, PublishMiddleware
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Outgoing

NOW = 1_700_000_000.0
CLAIMS = Capabilities(
    durable=False,
    confirm="written",
    delivery_count=True,
    attempt_exact=True,
    nack="native",
    dead_letter="native",
    ordering="none",
    filters="broker",
    publish_delay_max_s=inf,
)


class Kept:
    """What ``Outlet`` sees of a transport; ``outcome`` decides about each message."""

    def __init__(self, outcome: Callable[[Outgoing], Exception | None] = lambda out: None, **claims: Any) -> None:
        self.capabilities = replace(CLAIMS, **claims)
        self.outcome = outcome
        self.calls: list[list[Outgoing]] = []
        self.timeouts: list[float] = []

    @property
    def outgoing(self) -> list[Outgoing]:
        """All that was given, in order."""
        return [out for call in self.calls for out in call]

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Keep them."""
        self.calls.append(list(outgoing))
        self.timeouts.append(timeout_s)
        return [self.outcome(out) for out in outgoing]


def outlet(kept: Kept, *middleware: PublishMiddleware, codecs: Codecs | None = None) -> Outlet:
    """An outlet whose clock stands still."""
    return Outlet(kept, codecs or Codecs(), middleware, lambda: NOW)  # type: ignore[arg-type]
