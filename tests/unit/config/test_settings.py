import pytest

from busframe.config import RetrySettings, Settings
from busframe.errors import ConfigurationError
from busframe.logic.retry import Failure, Retry
from busframe.model.settlement import Nack


def test_secrets_do_not_show() -> None:
    """Neither the URL's password nor one in a table shows in repr."""
    settings = Settings(url="amqp://u:secret@h", transports={"nats": {"token": "secret", "servers": 1}})
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)
    assert "amqp://***@h" in repr(settings)


def test_scheme() -> None:
    """The scheme is in lower case, as plugins have it."""
    assert Settings(url="AMQP://h").scheme == "amqp"
    assert Settings().scheme is None


def test_made_directly_it_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Settings()`` takes only its arguments."""
    monkeypatch.setenv("URL", "amqp://h")
    monkeypatch.setenv("BUSFRAME_URL", "amqp://h")
    assert Settings().url is None


def test_retry_over() -> None:
    """The configured numbers replace the policy's own; what cannot be said in TOML stays."""
    policy = RetrySettings(max_attempts=8, delay_s=2).over(Retry(factor=3.0, give_up_on=(ValueError,)))
    assert policy == Retry(max_attempts=8, delay_s=2.0, factor=3.0, give_up_on=(ValueError,))


def test_retry_over_a_policy_of_ones_own() -> None:
    """A function has no numbers to replace."""

    def own(failure: Failure) -> Nack:
        return Nack()

    with pytest.raises(ConfigurationError, match="not a Retry"):
        RetrySettings(max_attempts=8).over(own)
