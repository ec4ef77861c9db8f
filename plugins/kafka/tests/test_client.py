"""busframe_kafka.client"""

from typing import Any

import pytest

from busframe.errors import AccessDenied, ConfigurationError, ConnectionFailed, TransportError
from busframe_kafka.client import (
    AdminClient,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    admin_config,
    consumer_config,
    producer_config,
    registry_config,
    translate,
)
from busframe_kafka.settings import Settings

CLIENT = {"batch.size": 70000, "fetch.min.bytes": 10, "socket.send.buffer.bytes": 100000}


def _ignore(error: object) -> None:
    """An error callback."""


def make_token() -> tuple[str, float]:
    """A token of a user's."""
    return "token", 4e9


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"client": CLIENT},
        {"compression": "zstd", "linger_s": 0.0005, "sticky_s": 0.0001},
        {"group_protocol": "consumer", "static_member": "worker-1"},
        {"url": "kafka+ssl://u:p@127.0.0.1:1", "sasl_mechanism": "SCRAM-SHA-512"},
        {"sasl_mechanism": "OAUTHBEARER", "oauth_token": f"{__name__}:make_token"},
    ],
)
def test_the_library_takes_every_configuration(more: dict[str, Any]) -> None:
    """All three kinds of clients can be made, whatever the settings say."""
    settings = Settings(**{"url": "kafka://127.0.0.1:1", **more})
    Producer(producer_config(settings, "tests", _ignore))
    AdminClient(admin_config(settings, "tests", _ignore))
    Consumer(consumer_config(settings, "tests", "group")).close()
    Consumer(registry_config(settings, "tests")).close()


def test_certificates_reach_the_library() -> None:
    """Whose word counts, and who we are."""
    files = {"tls_ca_file": "ca.pem", "tls_cert_file": "own.pem", "tls_key_file": "key.pem"}
    settings = Settings.model_validate({"url": "kafka+ssl://h", "tls_key_password": "secret", **files})
    config = admin_config(settings, "tests", _ignore)
    assert config["security.protocol"] == "ssl"
    names = ("ca.location", "certificate.location", "key.location", "key.password")
    assert [config[f"ssl.{name}"] for name in names] == ["ca.pem", "own.pem", "key.pem", "secret"]


def test_nothing_confirmed_can_be_lost_by_default() -> None:
    """The settings that the promises rest on."""
    settings = Settings(url="kafka://h")
    producer = producer_config(settings, "tests", _ignore)
    assert (producer["acks"], producer["enable.idempotence"], producer["partitioner"]) == (
        "all",
        True,
        "murmur2_random",
    )
    consumer = consumer_config(settings, "tests", "group")
    assert (consumer["auto.offset.reset"], consumer["enable.auto.offset.store"]) == ("error", False)
    assert consumer["allow.auto.create.topics"] is False


def test_a_client_setting_reaches_the_clients_that_know_it() -> None:
    """The others would warn of it."""
    settings = Settings(url="kafka://h", client=CLIENT)
    producer, consumer = producer_config(settings, "t", _ignore), consumer_config(settings, "t", "g")
    admin = admin_config(settings, "t", _ignore)
    assert [config.get("batch.size") for config in (producer, consumer, admin)] == [70000, None, None]
    assert [config.get("fetch.min.bytes") for config in (producer, consumer, admin)] == [None, 10, None]
    assert [config.get("socket.send.buffer.bytes") for config in (producer, consumer, admin)] == [100000] * 3


def test_a_token_function_that_is_missing_is_said() -> None:
    """By its name, when the client is made."""
    settings = Settings(url="kafka://h", sasl_mechanism="OAUTHBEARER", oauth_token="nowhere:token")
    with pytest.raises(ConfigurationError, match="nowhere:token"):
        producer_config(settings, "tests", _ignore)


@pytest.mark.parametrize(
    ("code", "kind", "transient"),
    [
        (KafkaError._AUTHENTICATION, AccessDenied, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessDenied, False),
        (KafkaError._ALL_BROKERS_DOWN, ConnectionFailed, True),
        (KafkaError._TIMED_OUT, ConnectionFailed, True),
        (KafkaError.NOT_CONTROLLER, TransportError, True),
        (KafkaError.INVALID_REPLICATION_FACTOR, TransportError, False),
    ],
)
def test_errors_are_translated(code: int, kind: type[TransportError], transient: bool) -> None:
    """By their code; the client's own is the cause."""
    translated = translate(KafkaException(KafkaError(code, "why")), "what")
    assert (type(translated), translated.transient) == (kind, transient)
    assert "what: why" in str(translated)
    assert isinstance(translated.__cause__, KafkaException)
    assert isinstance(translate(KafkaError(code)).__cause__, KafkaException)


def test_what_is_not_the_clients_is_translated_too() -> None:
    """A client that raises something else is a failed transport."""
    failed = ValueError("odd")
    translated = translate(failed, "what")
    assert (type(translated), translated.__cause__) == (TransportError, failed)
