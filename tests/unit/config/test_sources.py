from pathlib import Path

from busframe.config import RetrySettings, Settings
from tests.unit.config.conftest import configure, problems


def test_other_programs_variables(tmp_path: Path) -> None:
    """Variables that are close to no setting belong to somebody else, and empty ones say nothing."""
    environ = {"BUSFRAME_TEST_AMQP_URL": "x", "BUSFRAME_URL": "", "BUSFRAME_PROFILE": "", "BUSFRAME_CONFIG": ""}
    assert configure(tmp_path, environ=environ).settings == Settings()


def test_typing_mistake(tmp_path: Path) -> None:
    """A variable that is close to a setting is a mistake."""
    (problem,) = problems(tmp_path, environ={"BUSFRAME_TRANSPORT__RABBITMQ__WINDOW": "3"})
    assert problem == (
        "environment BUSFRAME_TRANSPORT__RABBITMQ__WINDOW: there is no such setting; "
        "did you mean BUSFRAME_TRANSPORTS__RABBITMQ__WINDOW?"
    )


def test_values_stay_texts(tmp_path: Path) -> None:
    """A number in the environment is read by the settings' own types; a password of digits stays a text."""
    environ = {
        "BUSFRAME_DRAIN_TIMEOUT_S": "2.5",
        "BUSFRAME_CONNECT_TIMEOUT_S": "inf",
        "BUSFRAME_TRANSPORTS__RABBITMQ__PASSWORD": "12345",
        "BUSFRAME_TRANSPORTS__KAFKA__SERVERS": '["a", "b"]',
        "BUSFRAME_TRANSPORTS__KAFKA__NOTE": "{not json",
        "BUSFRAME_HANDLERS__WORK__RETRY": '{"max_attempts": 8}',
        "BUSFRAME_HANDLERS__WORK__RETRY__DELAY_S": "3",
    }
    settings = configure(tmp_path, environ=environ).settings
    assert (settings.drain_timeout_s, settings.connect_timeout_s) == (2.5, float("inf"))
    assert settings.transports["rabbitmq"] == {"password": "12345"}
    assert settings.transports["kafka"] == {"servers": ["a", "b"], "note": "{not json"}
    assert settings.handlers["work"].retry == RetrySettings(max_attempts=8, delay_s=3)


def test_names_are_found_without_regard_to_case_and_dashes(tmp_path: Path) -> None:
    """A variable finds a name of the code or of a weaker source that it cannot spell."""
    found = configure(
        tmp_path,
        '[destinations."order-events".kafka]\npartitions = 3',
        environ={
            "BUSFRAME_DESTINATIONS__ORDER_EVENTS__KAFKA__PARTITIONS": "24",
            "BUSFRAME_HANDLERS__BILLING_CHARGE__CONCURRENCY": "2",
        },
        names=["billing.charge"],
    )
    assert found.settings.destinations == {"order-events": {"kafka": {"partitions": "24"}}}
    assert list(found.settings.handlers) == ["billing.charge"]
    variable = "BUSFRAME_DESTINATIONS__ORDER_EVENTS__KAFKA__PARTITIONS"
    assert found.origins["destinations.order-events.kafka.partitions"] == f"environment {variable}"
    assert 'handlers."billing.charge".concurrency' in found.origins


def test_ambiguous_name(tmp_path: Path) -> None:
    """A variable that could mean two names is refused."""
    environ = {"BUSFRAME_HANDLERS__A_B__CONCURRENCY": "2"}
    (problem,) = problems(tmp_path, environ=environ, names=["a-b", "a.b"])
    assert problem == "environment BUSFRAME_HANDLERS__A_B__CONCURRENCY: a-b or a.b? Say it in busframe.toml instead"


def test_table_and_value_at_once(tmp_path: Path) -> None:
    """Two variables that cannot both be true are an error."""
    environ = {"BUSFRAME_TRANSPORTS__KAFKA": "x", "BUSFRAME_TRANSPORTS__KAFKA__SERVERS": "y"}
    found = problems(tmp_path, environ=environ)
    assert any("another variable says that kafka is not a table" in problem for problem in found)
