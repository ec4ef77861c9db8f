"""busframe_kafka.settings"""

from typing import Any

import pytest
from pydantic import ValidationError

from busframe_kafka.settings import OWN, UNSAFE, Settings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://h", (("h:9092",), None, None, False)),
        ("kafka+ssl://h/", (("h:9092",), None, None, True)),
        ("kafka://u:p%40s%2Fs@h:1,i,j.example:2", (("h:1", "i:9092", "j.example:2"), "u", "p@s/s", False)),
        ("kafka://u@h:1", (("h:1",), "u", "", False)),
        ("kafka://[::1]:7,[::2]", (("[::1]:7", "[::2]:9092"), None, None, False)),
    ],
)
def test_url_is_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    """The parts of the URL are unquoted and have the protocol's default port."""
    server = Settings(url=url).server
    assert (server.hosts, server.user, server.password, server.tls) == expected


@pytest.mark.parametrize(
    "url",
    ["http://h", "kafka://", "kafka://h:x", "kafka://h:0", "kafka://h:65536", "kafka://h,", "kafka://h/a",
     "kafka://a b", "kafka://h/?partitions=3", "kafkas://h", "nonsense"],
)  # fmt: skip
def test_wrong_url_is_refused(url: str) -> None:
    """What is no URL of Kafka servers is refused when the settings are read."""
    with pytest.raises(ValidationError):
        Settings(url=url)


def test_password_never_shows() -> None:
    """Neither repr, str, the servers' shown form nor a validation error hold a password."""
    own = {"tls_cert_file": "own.pem", "tls_key_password": "secret"}
    settings = Settings.model_validate({"url": "kafka+ssl://user:sec%2Fret@h:1", **own})
    with pytest.raises(ValidationError) as refused:
        Settings(url="kafka://user:sec/ret@h:1/v/w")
    for text in (repr(settings), str(settings), repr(settings.server), settings.server.shown, str(refused.value)):
        assert "sec" not in text


@pytest.mark.parametrize(
    ("url", "setting", "problem"),
    [
        ("kafka://h", "tls_ca_file", "tls_ca_file: only for a connection with TLS: write kafka\\+ssl://"),
        ("kafka+ssl://h", "tls_key_file", "say tls_cert_file as well"),
        ("kafka+ssl://h", "tls_key_password", "say tls_cert_file as well"),
    ],
)
def test_half_of_tls_is_refused(url: str, setting: str, problem: str) -> None:
    """A certificate that nobody would look at, and a key without one."""
    with pytest.raises(ValidationError, match=problem):
        Settings.model_validate({"url": url, setting: "x"})


def test_unknown_setting_is_refused() -> None:
    """A misspelt setting is an error, not ignored."""
    with pytest.raises(ValidationError, match="partitons"):
        Settings.model_validate({"url": "kafka://h", "partitons": 3})


def test_text_from_a_query_is_converted() -> None:
    """The options of a URL's query arrive as text."""
    made = Settings.model_validate({"url": "kafka://h", "partitions": "7", "linger_s": "0.01", "unsafe": "acks"})
    assert (made.partitions, made.linger_s, made.unsafe) == (7, 0.01, ("acks",))


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_the_plugin_sets_itself_cannot_be_passed_through(name: str) -> None:
    """And the error says what to do instead."""
    with pytest.raises(ValidationError) as refused:
        Settings(url="kafka://h", client={name: "1"}, unsafe=(name,))
    assert f"{name}: {OWN[name]}" in str(refused.value)


@pytest.mark.parametrize("name", sorted(UNSAFE))
def test_what_is_dangerous_takes_an_explicit_word(name: str) -> None:
    """It is refused by its name with what it costs, and passed through where ``unsafe`` names it."""
    with pytest.raises(ValidationError) as refused:
        Settings(url="kafka://h", client={name: "1"})
    assert f"{name}: {UNSAFE[name]}" in str(refused.value)
    assert Settings(url="kafka://h", client={name: "1"}, unsafe=(name,)).client == {name: "1"}


@pytest.mark.parametrize(
    "more",
    [{"sasl_mechanism": "OAUTHBEARER"}, {"oauth_token": "module:function"}, {"sasl_mechanism": "SCRAM-SHA-512"}],
)
def test_half_a_login_is_refused(more: Any) -> None:
    """A mechanism without what it needs would only fail at the server."""
    with pytest.raises(ValidationError):
        Settings(url="kafka://h", **more)
