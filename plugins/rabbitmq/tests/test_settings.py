"""busframe_rabbitmq.settings"""

import pytest
from pydantic import ValidationError

from busframe_rabbitmq.settings import Settings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", ("h", 5672, "guest", "guest", "/", False)),
        ("amqps://h/", ("h", 5671, "guest", "guest", "/", True)),
        ("amqp://u:p%40ss@h:1/v", ("h", 1, "u", "p@ss", "v", False)),
        ("amqp://u:@h:1/%2Fa%2Fb", ("h", 1, "u", "", "/a/b", False)),
        ("amqp://[::1]:7/", ("::1", 7, "guest", "guest", "/", False)),
    ],
)
def test_url_is_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    """The parts of the URL are unquoted and have the protocol's defaults."""
    server = Settings(url=url).server
    assert (server.host, server.port, server.user, server.password, server.vhost, server.tls) == expected


@pytest.mark.parametrize(
    "url", ["http://h", "amqp://", "amqp://h:x", "amqp://h:0", "amqp://h/a/b", "amqp://h/?heartbeat=3", "nonsense"]
)
def test_wrong_url_is_refused(url: str) -> None:
    """What is no URL of a RabbitMQ server is refused when the settings are read."""
    with pytest.raises(ValidationError):
        Settings(url=url)


def test_password_never_shows() -> None:
    """Neither repr, str, the server's shown form nor a validation error hold the password."""
    settings = Settings(url="amqp://user:sec%2Fret@h:1/v")
    with pytest.raises(ValidationError) as refused:
        Settings(url="amqp://user:sec/ret@h:1/v/w")
    for text in (repr(settings), str(settings), repr(settings.server), settings.server.shown, str(refused.value)):
        assert "sec" not in text


def test_unknown_setting_is_refused() -> None:
    """A misspelt setting is an error, not ignored."""
    with pytest.raises(ValidationError, match="hearbeat_s"):
        Settings.model_validate({"url": "amqp://h", "hearbeat_s": 3})


def test_text_from_a_query_is_converted() -> None:
    """The options of a URL's query arrive as text."""
    assert Settings.model_validate({"url": "amqp://h", "heartbeat_s": "7"}).heartbeat_s == 7
