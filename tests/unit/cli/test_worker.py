import json
from collections.abc import Callable
from pathlib import Path

import pytest

from busframe.memory import MemoryBroker
from tests.unit.cli.conftest import Invoke

Refused = Callable[..., str]

SELF_FED = """
from busframe import Bus, Queue
from contextlib import asynccontextmanager

jobs = Queue("jobs", str)
other = Queue("other", str)

@asynccontextmanager
async def lifespan(bus):
    await bus.publish(jobs, "good")
    await bus.publish(jobs, "bad")
    yield

bus = Bus("memory://self-fed", lifespan=lifespan)

@bus.handle(jobs)
async def work(job: str) -> None:
    if job == "bad":
        from busframe import Reject
        raise Reject("bad")

@bus.handle(other)
async def never(job: str) -> None:
    pass
"""


def test_says_what_it_consumes_and_what_it_did(project: Path, invoke: Invoke) -> None:
    """At start the sources with their policies, at the end their counts."""
    (project / "fed.py").write_text(SELF_FED)
    result = invoke("worker", "fed:bus", "--until-idle", "0.05")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "fed:bus on memory://self-fed"
    assert lines[2].split() == ["source", "handlers", "concurrency", "prefetch", "ordering", "retry"]
    assert lines[4].split() == ["jobs", "work", "10", "20", "none", *"5 attempts, after 1, 2, 4, 8 s".split()]
    end = lines.index(next(line for line in lines if "dead-lettered" in line))
    assert lines[end].split() == ["source", "handled", "failed", "retried", "dead-lettered"]
    assert lines[end + 2].split() == ["jobs", "1", "1", "0", "1"]
    assert lines[end + 3].split() == ["other", "0", "0", "0", "0"]


def test_warns_of_memory(project: Path, invoke: Invoke) -> None:
    """On memory:// it says that no other process can publish there."""
    (project / "fed.py").write_text(SELF_FED)
    assert "no other process can publish to it" in invoke("worker", "fed:bus", "--until-idle", "0").stderr


def test_json_log(project: Path, invoke: Invoke) -> None:
    """With --log-format json everything is JSON lines on standard error, start and end too."""
    (project / "fed.py").write_text(SELF_FED)
    result = invoke("worker", "fed:bus", "--until-idle", "0.05", "--log-format", "json", "--handlers", "work")
    assert result.stdout == ""
    records = [json.loads(line) for line in result.stderr.splitlines()]
    (started,) = [record for record in records if record["event"] == "started"]
    assert (started["app"], started["sources"]) == ("fed:bus", ["jobs"])
    (ended,) = [record for record in records if record["event"] == "ended"]
    assert (ended["source"], ended["handled"], ended["dead_lettered"]) == ("jobs", 1, 1)


def test_handlers(project: Path, invoke: Invoke, refused: Refused) -> None:
    """Only the sources of the named handlers run; an unknown name says which there are."""
    (project / "fed.py").write_text(SELF_FED)
    result = invoke("worker", "fed:bus", "--until-idle", "0.05", "--handlers", "never, ")
    assert "jobs" not in result.stdout
    assert "other" in result.stdout
    assert "there is no handler 'wrk': there are work, never" in refused("worker", "fed:bus", "--handlers", "wrk")


def test_handles_what_others_published(shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
    """It runs on the configured broker, and hides the URL's password."""

    sent = invoke("publish", "order-events", '{"order_id": 7}', "--type", "order.created", "--header", "region=eu")
    assert sent.exit_code == 0, sent.output
    result = invoke("worker", "--until-idle", "0.05")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("shop:bus on kept://***@h\n")
    counts = [line.split() for line in result.stdout.splitlines()[-2:]]
    assert [count[:2] for count in counts] == [["order-events/inventory", "1"], ["emails", "1"]]


def test_drain_timeout_and_url_are_the_strongest(shop: Path, kept: MemoryBroker, refused: Refused) -> None:
    """Options of the command line go before everything else, and their mistakes name them."""
    assert refused("worker", "--url", "nowhere").startswith("option --url: url must begin with a scheme")
    assert "is not in the range" in refused("worker", "--drain-timeout", "-1")


def test_no_handlers(shop: Path, refused: Refused) -> None:
    """A bus without handlers has nothing to run."""
    (shop / "empty.py").write_text("from busframe import Bus\nbus = Bus()\n")
    assert refused("worker", "empty:bus").startswith("empty:bus has no handlers: register one")


def test_no_broker_said(shop: Path, refused: Refused) -> None:
    """Where nothing says a broker the lines to write are shown."""
    (shop / "busframe.toml").unlink()
    text = refused("worker", "shop:bus")
    assert 'write url = "amqp://localhost"' in text
    assert "BUSFRAME_URL=amqp://localhost" in text


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://u:s3cret@h", "no installed plugin takes amqp://: install busframe-rabbitmq"),
        ("kaept://u:s3cret@h", "did you mean kept://"),
    ],
)
def test_no_plugin(
    shop: Path, kept: MemoryBroker, refused: Refused, url: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheme that no plugin takes names what to install, or what is close."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [])
    assert says in refused("worker", "--url", url)


@pytest.mark.parametrize(
    ("url", "says"),
    [("gone://h", "nothing listens at broker.example.org"), ("locked://h", "refuses these credentials")],
)
def test_broker_not_reached(shop: Path, kept: MemoryBroker, refused: Refused, url: str, says: str) -> None:
    """A broker that is not there, or lets nobody in, is exit code 4."""
    assert says in refused("worker", "--url", url, code=4)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("topolgy = 'create'", "busframe.toml: topolgy is unknown; did you mean topology?"),
        ("topology = 'creat'", "busframe.toml: topology must be 'create', 'verify' or 'assume', not 'creat'"),
        ("topology = ", "/busframe.toml, line 4: this is not TOML"),
        ("[handlers.send_email]\nconcurency = 3", ": handlers.send_email.concurency is unknown; did you mean"),
        ("[transports.kept]\npasswrd = 's3cret'", ": transports.kept.passwrd is unknown; did you mean password"),
        ("[transports.kept]\npassword = 12", "busframe.toml: transports.kept.password must be a text, not '***'"),
    ],
)  # fmt: skip
def test_mistake_in_the_file(shop: Path, kept: MemoryBroker, refused: Refused, toml: str, says: str) -> None:
    """A wrong key or value in busframe.toml is said with file and key."""
    with (shop / "busframe.toml").open("a") as file:
        file.write(toml)
    assert says in refused("worker")
