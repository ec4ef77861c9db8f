"""A Kafka that asks who comes: TLS and passwords."""

import asyncio
import time
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from busframe.errors import AccessDenied, BusframeError, ConnectionFailed
from busframe.model.destination import Queue
from busframe_kafka.transport import Kafka
from plugins.kafka.tests.support import make_settings, opened
from tests.brokers.kafka import Kafka as KafkaServer
from tests.support.transports import declare, make_host, message, publish_all

EMAILS = Queue[Any]("emails")


def _secure(server: KafkaServer) -> tuple[str, str]:
    if server.secure is None:
        pytest.skip("this server has no listener with TLS and passwords")
    return server.secure[0], str(server.secure[1])


async def _refused(url: str, **more: Any) -> BusframeError:
    transport = Kafka(make_settings(url, connect_timeout_s=20.0, **more), make_host())
    started = time.monotonic()
    with pytest.raises(BusframeError) as refused:
        await transport.open()
    assert time.monotonic() - started < 15.0, "it waited for an answer that had come"
    await transport.close()
    assert "wrong" not in str(refused.value)
    return refused.value


async def test_a_user_with_a_password_comes_in(kafka: KafkaServer) -> None:
    """By SASL PLAIN, over TLS with the server's certificate verified; and everything works."""
    address, tls_ca_file = _secure(kafka)
    async with opened(f"kafka+ssl://tester:secret@{address}", tls_ca_file=tls_ca_file) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())


async def test_scram(kafka: KafkaServer) -> None:
    """With a password that the servers know by SCRAM; PLAIN has another one of this user."""
    address, tls_ca_file = _secure(kafka)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    made = admin.alter_user_scram_credentials([UserScramCredentialUpsertion("tester", info, b"a secret")])
    await asyncio.wrap_future(made["tester"])
    url = f"kafka+ssl://tester:a%20secret@{address}"
    async with opened(url, tls_ca_file=tls_ca_file, sasl_mechanism="SCRAM-SHA-256") as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())


async def test_a_wrong_password_is_refused_at_once(kafka: KafkaServer) -> None:
    """Waiting does not make it right."""
    address, tls_ca_file = _secure(kafka)
    error = await _refused(f"kafka+ssl://tester:wrong@{address}", tls_ca_file=tls_ca_file)
    assert isinstance(error, AccessDenied)
    assert not error.transient


async def test_a_server_that_nobody_vouches_for_gets_nothing(kafka: KafkaServer) -> None:
    """TLS is verified unless ``unsafe`` says otherwise."""
    address, _ = _secure(kafka)
    assert isinstance(await _refused(f"kafka+ssl://tester:secret@{address}"), ConnectionFailed)
    unsafe = {"enable.ssl.certificate.verification": False}
    async with opened(f"kafka+ssl://tester:secret@{address}", client=unsafe, unsafe=tuple(unsafe)):
        pass


async def test_a_server_that_is_not_there_is_said_at_once() -> None:
    """Without waiting for the whole time-out; it may come."""
    error = await _refused("kafka://127.0.0.1:1")
    assert isinstance(error, ConnectionFailed)
    assert error.transient
    assert isinstance(error.__cause__, KafkaException)
