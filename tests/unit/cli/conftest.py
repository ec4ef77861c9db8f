"""A folder with an application, and the command line run in it."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel

from busframe import registry
from busframe.cli.commands import busframe
from busframe.errors import AccessDenied, ConnectionFailed
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.spi import Host, Plugin, Transport

APP = """
from pydantic import BaseModel
from busframe import Bus, Context, Queue, Retry, Topic, message_type

@message_type("order.created", "OrderCreatedV1")
class OrderCreated(BaseModel):
    order_id: int

class OrderCancelled(BaseModel):
    order_id: int

class Email(BaseModel):
    to: str

orders = Topic("order-events", OrderCreated, OrderCancelled)
emails = Queue("emails", Email)
notes = Queue("notes", str)
blobs = Queue("blobs", bytes)
raw = Queue("raw")
bus = Bus(uses=[orders, notes, blobs, raw])

@bus.handle(orders.subscription("inventory", where={"region": ["eu", "us"]}), only=OrderCreated, unmatched="discard")
async def reserve_stock(order: OrderCreated, ctx: Context) -> None:
    await ctx.publish(emails, Email(to=str(order.order_id)))

@bus.handle(emails, concurrency=3, ordering="key", timeout_s=5.0, retry=Retry(max_attempts=3))
async def send_email(email: Email) -> None:
    pass
"""


class Invoke(Protocol):
    """Runs ``busframe`` with these words."""

    def __call__(self, *words: str, input: str | bytes | None = None) -> Result: ...


class KeptSettings(BaseModel):
    """The options of the test's own transports."""

    url: str
    password: str = ""


class Gone(MemoryTransport):
    """A broker that is not there."""

    async def open(self) -> None:
        """Fail."""
        raise ConnectionFailed("nothing listens at broker.example.org:5672: is the broker running?")


class Locked(MemoryTransport):
    """A broker that lets nobody in."""

    async def open(self) -> None:
        """Fail."""
        raise AccessDenied("the broker refuses these credentials: correct them in the URL")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the working directory; modules imported from it are forgotten afterwards."""
    for variable in ("URL", "CONFIG", "PROFILE", "APP"):
        monkeypatch.delenv(f"BUSFRAME_{variable}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def shop(project: Path) -> Path:
    """A folder with shop.py, configured for the broker of the fixture ``kept``."""
    (project / "shop.py").write_text(APP)
    (project / "busframe.toml").write_text('url = "kept://u:s3cret@h"\napp = "shop:bus"\nconnect_timeout_s = 0\n')
    return project


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """A broker in memory that outlives its clients, at kept://; gone:// and locked:// cannot be opened."""
    broker = MemoryBroker()
    monkeypatch.setattr(registry, "_registered", {})

    def plugin(name: str, kind: type[MemoryTransport]) -> Plugin[KeptSettings]:
        def create(settings: KeptSettings, host: Host) -> Transport:
            return kind(host, broker)

        return Plugin(name, (name,), KeptSettings, create)

    for name, kind in (("kept", MemoryTransport), ("gone", Gone), ("locked", Locked)):
        registry.register(plugin(name, kind))
    return broker


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    """Runs the command line; a traceback of ours fails the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*words: str, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(busframe, words, input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert "s3cret" not in result.output
        return result

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def refused(invoke: Invoke) -> Callable[..., str]:
    """Runs the command line, which says one clear error and ends with an exit code (2); returns what it says."""

    def run(*words: str, code: int = 2) -> str:
        result = invoke(*words)
        assert result.exit_code == code, result.output
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr.partition("Error: ")[2].strip()

    return run
