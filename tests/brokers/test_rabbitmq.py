"""The RabbitMQ server that the other tests rely on."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest

from tests.brokers.rabbitmq import RabbitMQ

QUORUM = {"x-queue-type": "quorum"}


def test_vhost_is_fresh_and_takes_confirmed_messages(rabbitmq: RabbitMQ, rabbitmq_vhost: str) -> None:
    """A test's virtual host is empty, holds quorum queues and confirms."""
    vhost = urlsplit(rabbitmq_vhost).path
    assert rabbitmq.api("GET", f"/queues{vhost}") == []
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_vhost)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("emails", durable=True, arguments=QUORUM)
        channel.basic_publish("", "emails", b"hello", mandatory=True)
        _, _, body = channel.basic_get("emails", auto_ack=True)
    assert body == b"hello"


def test_rabbitmqctl_works(rabbitmq: RabbitMQ) -> None:
    """The administration tool finds the server and its cookie."""
    names = [vhost["name"] for vhost in json.loads(rabbitmq.ctl("list_vhosts", "--formatter", "json"))]
    assert "/" in names


@pytest.mark.slow
def test_confirmed_messages_survive_a_kill(own_rabbitmq: Callable[[], RabbitMQ]) -> None:
    """A killed server is gone at once, and comes back on the same address with what it had confirmed."""
    server = own_rabbitmq()
    with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("emails", durable=True, arguments=QUORUM)
        channel.basic_publish("", "emails", b"hello", pika.BasicProperties(delivery_mode=2), mandatory=True)
        server.persist_declarations()
        server.kill()
        assert not server.ready()
        with pytest.raises(pika.exceptions.AMQPError):
            channel.queue_declare("emails", passive=True)
    server.start()
    with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
        _, _, body = connection.channel().basic_get("emails", auto_ack=True)
    assert body == b"hello"


@pytest.mark.slow
def test_a_stopped_server_leaves_nothing(own_rabbitmq: Callable[[], RabbitMQ]) -> None:
    """No process of a stopped server lives on, its port mapper included."""
    server = own_rabbitmq()
    assert _processes_of(server)
    server.stop()
    assert not _processes_of(server)


@pytest.mark.slow
def test_listens_on_loopback_only(own_rabbitmq: Callable[[], RabbitMQ]) -> None:
    """Another machine can reach no port of the server: AMQP, management, distribution and port mapper."""
    server = own_rabbitmq()
    listeners = _listeners_of(_processes_of(server))
    assert len(listeners) >= 4
    assert set(listeners) <= {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1, as Linux writes them


def _processes_of(server: RabbitMQ) -> list[Path]:
    """Return the folders in /proc of the processes that were started with the node name of *server*."""
    mark = f"RABBITMQ_NODENAME=busframe-{urlsplit(server.url).port}@".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if mark in environ.read_bytes():
                found.append(environ.parent)
    return found


def _listeners_of(processes: list[Path]) -> list[str]:
    """Return the addresses on which *processes* listen, one for each listener."""
    sockets = {os.readlink(link) for process in processes for link in (process / "fd").iterdir()}
    listeners = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                listeners.append(local.split(":")[0])
    return listeners
