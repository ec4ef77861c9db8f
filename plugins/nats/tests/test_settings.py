"""busframe_nats.settings"""

from typing import Any

import pytest
from pydantic import ValidationError

from busframe_nats.settings import Server, Settings, parse_url, shown
from plugins.nats.tests.support import make_settings


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://h", (Server("h", 4222, tls=False),)),
        ("NATS+TLS://h:5", (Server("h", 5, tls=True),)),
        ("nats://u:p%40%2F@h", (Server("h", 4222, False, "u", "p@/"),)),
        ("nats://u:p@a:1,[::1]:2,c", tuple(Server(*at, False, "u", "p") for at in (("a", 1), ("::1", 2), ("c", 4222)))),
        ("nats://h/", (Server("h", 4222, tls=False),)),
    ],
)
def test_a_url_names_servers(url: str, servers: tuple[Server, ...]) -> None:
    """One or several, with the protocol's defaults."""
    assert parse_url(url) == servers
    assert shown(*servers).startswith("nats")
    assert "p@/" not in repr(servers)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://h",
        "nats://",
        "nats://h:0",
        "nats://h:x",
        "nats://h:70000",
        "nats://[nonsense]",
        "nats://user@h",
        "nats://u:s3@cret@h",
        "nats://h/path",
        "nats://h#x",
        "nats://a,,b",
    ],
)
def test_a_wrong_url_is_refused_without_being_repeated(url: str) -> None:
    """It may hold the password."""
    with pytest.raises(ValidationError) as refused:
        make_settings(url)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "more", "says"),
    [
        ("nats://h", {"tls_ca_file": "x"}, "only for a connection with TLS"),
        ("nats://h", {"tls_first": True}, "only for a connection with TLS"),
        ("nats+tls://h", {"tls_key_file": "x"}, "needs its certificate"),
        ("nats://u:p@h", {"token": "t"}, "who we are is said in one way"),
        ("nats://h", {"token": "t", "nkey_seed": "s"}, "who we are is said in one way"),
        ("nats://h", {"unknown": 1}, "unknown"),
        ("nats://h", {"subject_prefix": "a.b"}, "subject_prefix"),
        ("nats://h", {"replicas": 2}, "replicas"),
    ],
)
def test_what_does_not_go_together_is_refused(url: str, more: dict[str, Any], says: str) -> None:
    """And it says what to do."""
    with pytest.raises(ValidationError, match=says):
        make_settings(url, **more)


def test_secrets_show_nowhere() -> None:
    """Neither in the text nor in the repr."""
    for settings in (Settings(url="nats://u:s3cret@h"), Settings(url="nats://h", token="s3cret", nkey_seed=None)):
        assert "s3cret" not in f"{settings!r} {settings}"
