"""busframe_rabbitmq.settings"""

import pytest
from pydantic import ValidationError

from busframe_rabbitmq.settings import Settings, shown, split_management_url


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
    (server,) = Settings(url=url).servers
    assert (server.host, server.port, server.user, server.password, server.vhost, server.tls) == expected


def test_several_hosts_share_the_rest() -> None:
    """Each has a port of its own or the protocol's."""
    servers = Settings(url="amqp://u:p,%40@h1:1,[::2],h3/v%2Fw").servers
    assert [(server.host, server.port) for server in servers] == [("h1", 1), ("::2", 5672), ("h3", 5672)]
    assert {(server.user, server.password, server.vhost) for server in servers} == {("u", "p,@", "v/w")}
    assert shown(*servers) == "amqp://h1:1,[::2]:5672,h3:5672/v%2Fw"
    assert servers[1].shown == "amqp://[::2]:5672/v%2Fw"


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "amqp://",
        "amqp://h:x",
        "amqp://h:0",
        "amqp://h:65536",
        "amqp://h/a/b",
        "amqp://h/?heartbeat=3",
        "amqp://h1,,h2",
        "amqp://u:p@h1,u:p@h2",
        "amqp://::1:5672",
        "amqp://[h]",
        "nonsense",
    ],
)
def test_wrong_url_is_refused(url: str) -> None:
    """What is no URL of a RabbitMQ server is refused when the settings are read."""
    with pytest.raises(ValidationError):
        Settings(url=url)


def test_password_never_shows() -> None:
    """Neither repr, str, the server's shown form nor a validation error hold the password."""
    settings = Settings(url="amqps://user:sec%2Fret@h:1/v", tls_cert_file="c", tls_key_password="sec-ret")
    with pytest.raises(ValidationError) as refused:
        Settings(url="amqp://user:sec/ret@h:1/v/w")
    for text in (repr(settings), str(settings), repr(settings.servers), shown(*settings.servers), str(refused.value)):
        assert "sec" not in text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"url": "amqp://h", "tls_ca_file": "ca", "tls_server_name": "n"}, "tls_ca_file, tls_server_name.*amqps://"),
        ({"url": "amqps://h", "tls_key_file": "k"}, "tls_cert_file"),
        ({"url": "amqps://h", "tls_key_password": "k"}, "tls_cert_file"),
        ({"url": "amqps://h", "auth_mechanism": "external"}, "tls_cert_file"),
        ({"url": "amqp://h", "heartbeat_s": 0}, "heartbeat_s"),
        ({"url": "amqp://h", "management_url": "h:15672"}, "management_url"),
        ({"url": "amqp://h", "management_url": "http://h:15672?x=1"}, "management_url"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, object], says: str) -> None:
    """What is said is never ignored, and what hides a dead connection is not offered."""
    with pytest.raises(ValidationError, match=says):
        Settings.model_validate(given)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:15672", ("http://h:15672", None, "")),
        ("https://u:p%40@h/rabbit/", ("https://h/rabbit", "u", "p@")),
    ],
)
def test_management_url_is_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    """The password stands in no request line and no log."""
    assert split_management_url(url) == expected


def test_unknown_setting_is_refused() -> None:
    """A misspelt setting is an error, not ignored."""
    with pytest.raises(ValidationError, match="hearbeat_s"):
        Settings.model_validate({"url": "amqp://h", "hearbeat_s": 3})


def test_text_from_a_query_is_converted() -> None:
    """The options of a URL's query arrive as text."""
    assert Settings.model_validate({"url": "amqp://h", "heartbeat_s": "7"}).heartbeat_s == 7
