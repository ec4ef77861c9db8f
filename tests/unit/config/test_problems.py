from pathlib import Path

import pytest

from busframe.errors import ConfigurationError, InvalidSettings
from tests.unit.config.conftest import configure, problems


def test_all_at_once(tmp_path: Path) -> None:
    """Every problem of every source is in one error, with where it was said."""
    found = problems(
        tmp_path,
        "topolgy = 'create'\n[handlers.work]\nconcurency = 3\nretry = {max_attempts = 0, delay = 2}",
        environ={"BUSFRAME_MAX_DELIVERIES": "many", "BUSFRAME_ULR": "amqp://h"},
        arguments={"prefix": "--"},
        options={"connect_timeout_s": -1.0},
    )
    file = tmp_path / "busframe.toml"
    assert found[0].startswith("environment BUSFRAME_ULR: there is no such setting; did you mean BUSFRAME_URL?")
    assert any(problem.startswith("argument of Bus: prefix must be at most 40 letters") for problem in found)
    for problem in (
        f"{file}: topolgy is unknown; did you mean topology?",
        f"{file}: handlers.work.concurency is unknown; did you mean concurrency?",
        f"{file}: handlers.work.retry.max_attempts must be greater than or equal to 1, not 0",
        f"{file}: handlers.work.retry.delay is unknown; did you mean delay_s or max_delay_s?",
        "environment BUSFRAME_MAX_DELIVERIES: max_deliveries must be a whole number, not 'many'",
        "option --connect-timeout: connect_timeout_s must be greater than or equal to 0, not -1.0",
    ):
        assert problem in found
    assert len(found) == 8


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("topology = 'creat'", "must be 'create', 'verify' or 'assume', not 'creat'; did you mean 'create'?"),
        ("topology = 'zzz'", "topology must be 'create', 'verify' or 'assume', not 'zzz'"),
        ("drain_timeout = 3", "drain_timeout is unknown; did you mean drain_timeout_s?"),
        ("zzz = 3", "zzz is unknown; there are app, connect_timeout_s, destinations,"),
        ("url = 'localhost:5672'", "url must begin with a scheme that names the broker, such as amqp:// or memory://"),
        ("app = 'shop'", "app must be module:attribute, such as shop:bus"),
        ("transports = 3", "transports must be a table, not 3"),
        ("[transports]\nrabbitmq = 3", "transports.rabbitmq must be a table, not 3"),
        ("[destinations.'a.b']\nkafka = 3", 'destinations."a.b".kafka must be a table, not 3'),
        ("[handlers]\nwork = 3", "handlers.work must be a table, not 3"),
        ("max_lane_delay_s = inf", "max_lane_delay_s must be less than inf, not inf"),
        ("connect_timeout_s = nan", "connect_timeout_s must be greater than or equal to 0, not nan"),
        ("drain_timeout_s = {a = 1}", "drain_timeout_s must be a number"),
        ("url = {password = 'secret'}", "url must be a text"),
    ],
)  # fmt: skip
def test_key_and_value(tmp_path: Path, toml: str, problem: str) -> None:
    """A wrong key names the close ones, a wrong value what it may be."""
    (found,) = problems(tmp_path, toml)
    assert problem in found
    assert "secret" not in found


def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    """A wrong value that holds a secret is not shown, nor does the error's chain hold it."""
    with pytest.raises(InvalidSettings) as caught:
        configure(tmp_path, environ={"BUSFRAME_URL": "u:secret@h"}, arguments={"app": ["amqp://u:secret@h"]})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_said_twice(tmp_path: Path) -> None:
    """An unknown key that several sources have names all of them."""
    (problem,) = problems(tmp_path, "topolgy = 1", arguments={"topolgy": 2})
    assert problem.startswith("argument of Bus and ")


def test_no_broker(tmp_path: Path) -> None:
    """Where nobody says a broker, the line to write is shown; nothing is assumed."""
    with pytest.raises(ConfigurationError, match=r"there is no busframe\.toml.*url = \"amqp://.*BUSFRAME_URL=amqp://"):
        configure(tmp_path).require_url()
    with pytest.raises(ConfigurationError, match=r"busframe\.toml does not say it"):
        configure(tmp_path, "prefix = ''").require_url()
    assert configure(tmp_path, 'url = "memory://"').require_url() == "memory://"
