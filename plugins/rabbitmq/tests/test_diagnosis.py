"""busframe_rabbitmq.diagnosis"""

from typing import Any

import pytest

from busframe.errors import ConnectionFailed
from busframe_rabbitmq.diagnosis import Seen, findings, is_local
from plugins.rabbitmq.tests.support import make_settings

NODE = {"name": "rabbit@one", "running": True, "mem_alarm": False, "disk_free_alarm": False}

FULL = {**NODE, "disk_free_alarm": True}
DOWN = {**NODE, "running": False}


def found(url: str = "amqps://user:secret@rabbit.example", seen: dict[str, Any] | None = None, **more: Any) -> Any:
    """What is found, by its subject: (level, text)."""
    facts = {"version": (4, 0), "blocked": None, "nodes": [NODE] * 3, "hold_max_s": 1500.0, **(seen or {})}
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
    ("subject", "level", "says", "url", "seen", "more"),
    [
        ("connection", "warn", "h1, h2 in plain text", "amqp://u:secret@h1,127.0.0.1,h2", {}, {}),
        ("connection", "ok", "within this machine", "amqp://u:secret@127.0.0.1,[::1],localhost", {}, {}),
        ("credentials", "warn", "guest", "amqps://h", {}, {}),
        ("server", "fail", "3.9 is older", "amqps://u:secret@h", {"version": (3, 9)}, {}),
        ("server", "ok", "without ordering", "amqps://u:secret@h", {"version": (3, 13)}, {}),
        ("server", "warn", "does not say", "amqps://u:secret@h", {"version": (0, 0)}, {}),
        ("alarms", "fail", "(low on memory)", "amqps://u:secret@h", {"blocked": "low on memory"}, {}),
        ("alarms", "fail", "disk space: rabbit@one", "amqps://u:secret@h", {"nodes": [FULL]}, {}),
        ("nodes", "ok", "not known", "amqps://u:secret@h", {"nodes": None}, {}),
        ("nodes", "warn", "no answer", "amqps://u:secret@h", {"nodes": ConnectionFailed("no answer")}, {}),
        ("nodes", "warn", "one node", "amqps://u:secret@h", {"nodes": [NODE]}, {}),
        ("nodes", "warn", "two nodes", "amqps://u:secret@h", {"nodes": [NODE] * 2}, {}),
        ("nodes", "warn", "not running: rabbit@one", "amqps://u:secret@h", {"nodes": [NODE, NODE, DOWN]}, {}),
        ("consumer_timeout", "ok", "1500 s", "amqps://u:secret@h", {}, {}),
        ("max_message_bytes", "warn", "33554432", "amqps://u:secret@h", {}, {"max_message_bytes": 2**25}),
        ("management_url", "warn", "to m in plain", "amqps://u:secret@h", {}, {"management_url": "http://u:secret@m"}),
    ],
)  # fmt: skip
def test_what_an_operator_should_know(
    subject: str, level: str, says: str, url: str, seen: dict[str, Any], more: dict[str, Any]
) -> None:
    """Each with what is wrong and what to do, and no secret."""
    finding = found(url, seen, **more)[subject]
    assert finding[0] == level
    assert says in finding[1]


def test_older_servers_take_larger_messages() -> None:
    """The default was lowered with 4.0."""
    assert "max_message_bytes" not in found(seen={"version": (3, 13)}, max_message_bytes=2**25)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.8.8.8", True), ("::1", True), ("localhost", True), ("a.localhost", True), ("10.0.0.1", False), ("h", False)],
)
def test_nobody_listens_within_a_machine(host: str, local: bool) -> None:
    """Everywhere else somebody may."""
    assert is_local(host) is local
