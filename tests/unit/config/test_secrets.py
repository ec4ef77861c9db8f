import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from busframe.config import mask, mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("memory://", "memory://"),
        ("amqp://localhost/shop", "amqp://localhost/shop"),
        ("amqp://guest:guest@localhost:5672/shop", "amqp://***@localhost:5672/shop"),
        ("amqp://guest@localhost", "amqp://***@localhost"),
        ("nats://a:4222,b:4222", "nats://a:4222,b:4222"),
        ("nats://u:p@a:4222,u:p@b:4222", "nats://***@b:4222"),
        ("amqp://h?heartbeat_s=3&password=x", "amqp://h?heartbeat_s=3&password=***"),
        ("kafka://h?sasl_username=me@example.org&sasl_password=x@y", "kafka://***@example.org&sasl_password=***"),
        ("nats://u:p@h?user=me@example.org", "nats://***@h?user=me@example.org"),
        ("amqp://u:p/w@h/v", "amqp://***@h/v"),
        ("amqp://u:p?w@h/v?heartbeat_s=3", "amqp://***@h/v?heartbeat_s=3"),
        ("amqp://u:p@w/x@h/v", "amqp://***@h/v"),
        ("servicebus://n?SharedAccessKeyName=Root&SharedAccessKey=a=b=", "servicebus://n?SharedAccessKeyName=Root&SharedAccessKey=***"),
        ("Endpoint=sb://n/;SharedAccessKeyName=Root;SharedAccessKey=abc=", "Endpoint=sb://n/;SharedAccessKeyName=Root;SharedAccessKey=***"),
        ("kafka://h?tls_key_file=/etc/key.pem", "kafka://h?tls_key_file=/etc/key.pem"),
        ("kafka://h?pass%77ord=abc", "kafka://h?pass%77ord=***"),
        ("user:password@host", "***@host"),
    ],
)  # fmt: skip
def test_masked(url: str, masked: str) -> None:
    """What is not secret stays readable; what may be is hidden."""
    assert mask_url(url) == masked


@given(st.text(st.characters(codec="ascii", exclude_characters="&;= \t\r\n\x0b\x0c\x1c\x1d\x1e\x1f"), min_size=5))
@example("pa/ss")
@example("p@s/w?d")
@example("a?b@c#d")
def test_no_password_survives(password: str) -> None:
    """However badly a password is encoded, it does not show, whole or from its third character on."""
    assume(not {password, password[2:]} & {"user", "localhost"})
    rest = "@localhost:5672/shop?heartbeat_s=3"
    assume(password[2:] not in f"***{rest}amqp://localhost/shop?heartbeat_s=3&password=***")
    assert password[2:] not in mask_url(f"amqp://user:{password}{rest}")
    assert password[2:] not in mask_url(f"amqp://localhost/shop?heartbeat_s=3&password={password}")


def test_tables_are_masked_all_the_way_down() -> None:
    """Secrets inside tables and lists are found by the names of their keys, and in URLs and connection strings."""
    table = {
        "heartbeat_s": 3,
        "password": "x",
        "empty": {"password": "", "secret": None, "token": False},
        "servers": ["nats://u:p@a", "nats://b"],
        "connection_string": "abc",
        "note": "x=1;password=2",
    }
    assert mask("rabbitmq", table) == {
        "heartbeat_s": 3,
        "password": "***",
        "empty": {"password": "", "secret": None, "token": False},
        "servers": ["nats://***@a", "nats://b"],
        "connection_string": "***",
        "note": "x=1;password=***",
    }
