"""The states of a source in a worker, and what moves it from one to the next.

``starting`` until the broker has its consumer, then ``consuming``; ``reconnecting`` while the broker or the way to it
is away; ``paused`` while its handlers wait for something outside; ``stopped`` for good. Readiness means *consuming* (or
paused), not *connected*. Everything that affects the state is in this table.
"""

from typing import Literal, TypeAlias

SourceState: TypeAlias = Literal["starting", "consuming", "paused", "reconnecting", "stopped"]
SourceEvent: TypeAlias = Literal["opened", "lost", "paused", "resumed", "stopped"]

TRANSITIONS: dict[SourceState, dict[SourceEvent, SourceState]] = {
    "starting": {"opened": "consuming", "lost": "reconnecting", "paused": "starting", "resumed": "starting"},
    "consuming": {"opened": "consuming", "lost": "reconnecting", "paused": "paused", "resumed": "consuming"},
    "paused": {"opened": "paused", "lost": "reconnecting", "paused": "paused", "resumed": "consuming"},
    "reconnecting": {
        "opened": "consuming",
        "lost": "reconnecting",
        "paused": "reconnecting",
        "resumed": "reconnecting",
    },
    "stopped": {"opened": "stopped", "lost": "stopped", "paused": "stopped", "resumed": "stopped"},
}
for _events in TRANSITIONS.values():
    _events["stopped"] = "stopped"

READY: frozenset[SourceState] = frozenset({"consuming", "paused"})


def advance(state: SourceState, event: SourceEvent) -> SourceState:
    """The state after an event; every event is legal in every state, and ``stopped`` is final."""
    return TRANSITIONS[state][event]
