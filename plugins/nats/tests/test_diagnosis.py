"""busframe_nats.diagnosis"""

from typing import Any

import pytest

from busframe.errors import TransportError
from busframe.model.destination import Queue
from busframe_nats.diagnosis import Seen, findings
from plugins.nats.tests.support import make_settings, opened
from tests.support.transports import declare

STREAM = {"name": "bf-q", "num_replicas": 3, "storage": "file", "max_bytes": -1}
SINGLE = {**STREAM, "num_replicas": 1}
GOOD = "nats+tls://user:secret@nats.example"


def found(url: str = GOOD, seen: dict[str, Any] | None = None, **more: Any) -> dict[str, tuple[str, str]]:
    """What is found, by its subject: (level, text)."""
    facts = {"version": (2, 15, 2), "streams": [STREAM], "account": None, "max_payload": 2**20, **(seen or {})}
    made = findings(make_settings(url, **more), Seen(**facts))
    for finding in made:
        assert finding.says
        assert finding.do or finding.level == "ok"
        assert "secret" not in f"{finding}"
    assert len({finding.subject for finding in made}) == len(made)
    return {finding.subject: (finding.level, finding.says) for finding in made}


def test_a_good_server_is_found_good() -> None:
    """Of all that can be known nothing is bad."""
    assert {level for level, _ in found().values()} == {"ok"}


@pytest.mark.parametrize(
    ("subject", "level", "says", "url", "seen"),
    [
        ("connection", "warn", "plain text", "nats://user:secret@nats.example", {}),
        ("connection", "ok", "on this machine", "nats://user:secret@127.0.0.1,[::1],localhost", {}),
        ("credentials", "warn", "without credentials", "nats+tls://h", {}),
        ("server", "warn", "2.10.22: it may lose confirmed messages", GOOD, {"version": (2, 10, 22)}),
        ("server", "ok", "without delayed publishing", GOOD, {"version": (2, 10, 27)}),
        ("replicas", "warn", "sync_interval", GOOD, {"streams": [SINGLE]}),
        ("replicas", "warn", "sync_interval", GOOD, {"streams": []}),
        ("replicas", "warn", "cannot be listed", GOOD, {"streams": TransportError("no")}),
        ("storage", "warn", "bf-q", GOOD, {"streams": [{**STREAM, "storage": "memory"}]}),
        ("space", "warn", "90 of 100 bytes", GOOD, {"account": {"storage": 90, "limits": {"max_storage": 100}}}),
        ("space", "ok", "no limit of their own", GOOD, {"account": {"storage": 90, "limits": {"max_storage": -1}}}),
        ("max_payload", "warn", "hold all others", GOOD, {"max_payload": 2**26}),
        ("clock", "warn", "60 s ahead", GOOD, {"ahead_s": 60.0}),
        ("clock", "warn", "60 s behind", GOOD, {"ahead_s": -60.0}),
    ],
)
def test_what_is_bad_is_said(subject: str, level: str, says: str, url: str, seen: dict[str, Any]) -> None:
    """With what to do about it."""
    is_level, text = found(url, seen)[subject]
    assert is_level == level
    assert says in text


async def test_of_a_real_server(nats_url: str) -> None:
    """One server, in plain text, on this machine."""
    async with opened(nats_url) as transport:
        await declare(transport, Queue[Any]("q"))
        levels = {each.subject: each.level for each in await transport.diagnose()}
    assert levels == {"connection": "ok", "server": "ok", "replicas": "warn", "space": "ok"}
