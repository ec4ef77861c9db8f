"""Commands that only show something: describe, config, plugins, and the command itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from busframe import Bus, Context, Next, Queue, Retry, Topic
from busframe.cli.output import print_table, seconds
from busframe.cli.policies import needs, retry_data, retry_text
from busframe.logic.retry import Failure
from busframe.memory import MemoryBroker
from busframe.model.settlement import Nack
from tests.unit.cli.conftest import Invoke

Refused = Callable[..., str]


class TestDescribe:
    def test_tables(self, shop: Path, invoke: Invoke) -> None:
        """Destinations, sources, handlers and what is asked of the broker, without any broker or plugin."""
        (shop / "busframe.toml").write_text("[handlers.send_email]\nconcurrency = 7\n")
        result = invoke("describe", "shop:bus")
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.stdout.splitlines()]
        assert ["order-events", "topic", "OrderCreated,", "OrderCancelled"] in rows
        assert ["raw", "queue", "any"] in rows
        assert ["emails", "7", "14", "key", "after", "dead-letter", "-"] in rows
        assert ["order-events/inventory", "10", "20", "none", "after", "discard", "region=eu|us"] in rows
        assert any(row[:3] == ["send_email", "emails", "Email"] and row[-4:-1] == ["s", "5", "s"] for row in rows)
        assert ["emails", "ordering", 'ordering="key"'] in rows

    def test_json(self, shop: Path, invoke: Invoke) -> None:
        """The same as JSON."""
        data = json.loads(invoke("describe", "--json").stdout)
        assert data["app"] == "shop:bus"
        assert {"name": "order-events", "kind": "topic", "types": ["OrderCreated", "OrderCancelled"]} in data[
            "destinations"
        ]
        inventory, emails = data["sources"]
        assert (inventory["where"], inventory["start"]) == ({"region": ["eu", "us"]}, "latest")
        assert inventory["handlers"][0]["types"] == ["order.created", "OrderCreatedV1"]
        assert (emails["ordering"], emails["concurrency"]) == ("key", 3)
        assert emails["handlers"][0]["retry"]["max_attempts"] == 3
        assert any(need["capability"] == "ordering" for need in data["needs"])

    def test_nothing(self, shop: Path, invoke: Invoke) -> None:
        """An application without anything is said to be one."""
        (shop / "empty.py").write_text("from busframe import Bus, Queue\nbus = Bus()\nuses = Bus(uses=[Queue('q')])\n")
        assert "no handlers and uses no destinations" in invoke("describe", "empty:bus").stdout
        assert "source" not in invoke("describe", "empty:uses").stdout

    def test_unknown_profile(self, shop: Path, refused: Refused) -> None:
        """A profile that does not exist is an error."""
        assert "has no profile 'production'" in refused("describe", "--profile", "production")


class TestConfig:
    def test_values_and_origins(
        self, shop: Path, kept: MemoryBroker, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each effective setting with where it came from; secrets are hidden."""
        with (shop / "busframe.toml").open("a") as file:
            file.write("[transports.kept]\npassword = 's3cret'\n[profiles.production]\nprefix = 'p-'\n")
        monkeypatch.setenv("BUSFRAME_DRAIN_TIMEOUT_S", "5")
        result = invoke("config", "--profile", "production")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["file", str(shop / "busframe.toml")]
        assert lines[1].split() == ["profile", "production"]
        rows = [line.split(maxsplit=2) for line in lines]
        assert ["url", "kept://***@h", "busframe.toml"] in rows
        assert ["drain_timeout_s", "5.0", "environment BUSFRAME_DRAIN_TIMEOUT_S"] in rows
        assert ["prefix", "p-", "profile production"] in rows
        assert ["transports.kept.password", "***", "busframe.toml"] in rows
        assert ["topology", "create", "default"] in rows
        assert ["destinations", "-", "default"] in rows

    def test_arguments_of_the_bus(self, shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
        """With an APP, what its Bus says counts too, and options go before it."""
        (shop / "own.py").write_text("from busframe import Bus\nbus = Bus('kept://own', config={'prefix': 'own-'})\n")
        data = json.loads(invoke("config", "own:bus", "--json").stdout)
        assert data["file"] == str(shop / "busframe.toml")
        settings = {setting["key"]: (setting["value"], setting["from"]) for setting in data["settings"]}
        assert settings["prefix"] == ("own-", "argument of Bus")
        data = json.loads(invoke("config", "own:bus", "--json", "--url", "kept://u:s3cret@option").stdout)
        assert {"key": "url", "value": "kept://***@option", "from": "option --url"} in data["settings"]

    def test_without_any_app(self, project: Path, invoke: Invoke) -> None:
        """Without an APP it shows what file and environment say."""
        result = invoke("config")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[0].split() == ["file", "none"]
        assert ["url", "-", "default"] in [line.split() for line in result.stdout.splitlines()]

    def test_options_of_the_transport_are_checked(self, shop: Path, kept: MemoryBroker, invoke: Invoke) -> None:
        """What is wrong with the URL's options is said, after everything was shown."""
        result = invoke("config", "--url", "kept://h?passwrd=1")
        assert result.exit_code == 2
        assert "topology" in result.stdout
        assert "option --url, in the URL: passwrd is unknown; did you mean password?" in result.stderr


class TestPlugins:
    def test_broken_one_hides_no_other(
        self, kept: MemoryBroker, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each plugin is listed with its state, a broken one with its error below."""
        from importlib.metadata import EntryPoint

        broken = EntryPoint("broken", "module_that_is_not_there:plugin", "busframe.transports")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [broken])
        result = invoke("plugins")
        assert result.exit_code == 0
        rows = [line.split() for line in result.stdout.splitlines()]
        assert ["kept", "-", "-", "kept://", "ok"] in rows
        assert "module_that_is_not_there:plugin: the plugin for broken:// " in result.stdout
        states = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json").stdout)}
        assert states["kept"]["state"] == "ok"
        assert "ModuleNotFoundError" in states["module_that_is_not_there:plugin"]["error"]

    def test_none(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any plugin it says what to do."""
        monkeypatch.setattr("busframe.registry._registered", {})
        monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [])
        assert "install one" in invoke("plugins").stdout


class TestCommand:
    def test_help(self, invoke: Invoke) -> None:
        """Help lists every command with what it does."""
        result = invoke("--help")
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()] == [
            "worker",
            "publish",
            "describe",
            "config",
            "plugins",
            "conformance",
        ]

    @pytest.mark.parametrize("command", ["worker", "publish", "describe", "config", "plugins"])
    def test_help_of_each(self, invoke: Invoke, command: str) -> None:
        """Each command has its help."""
        assert invoke(command, "-h").exit_code == 0

    def test_mistyped(self, refused: Refused) -> None:
        """A mistyped command names the close one."""
        assert refused("wroker") == "there is no command 'wroker'; did you mean worker?"
        assert "No such command 'zzz'" in refused("zzz")

    def test_help_imports_nothing_heavy(self) -> None:
        """``busframe --help`` loads neither pydantic nor rich nor any plugin."""
        code = (
            "import sys; from click.testing import CliRunner; from busframe.cli.commands import busframe; "
            "assert CliRunner().invoke(busframe, ['--help']).exit_code == 0; "
            "sys.exit(' '.join({'pydantic', 'pydantic_settings', 'rich', 'busframe.memory'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr.strip() == ""


def test_table_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A table that does not go to a terminal is neither folded nor padded, and its cells are no markup."""
    print_table(("a", "b"), [("[red]x", None), ("y" * 300, 1)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["[red]x", "-"]
    assert lines[3].split() == ["y" * 300, "1"]
    assert all(line == line.rstrip() for line in lines)


def own(failure: Failure) -> Nack:
    """A policy of one's own."""
    return Nack()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (None, "-"),
        (own, "own"),
        (Retry(max_attempts=1), "1 attempt"),
        (Retry(max_attempts=2), "2 attempts, 1 s between them"),
        (Retry(), "5 attempts, after 1, 2, 4, 8 s"),
        (Retry(max_attempts=100, delay_s=60, factor=1), "100 attempts, 60 s between them"),
        (Retry(max_attempts=10**9), "1000000000 attempts, after 1, 2, 4, … 300 s"),
        (Retry(max_attempts=3, max_age_s=60, rules={KeyError: Retry()}), "3 attempts, after 1, 2 s, for 60 s, 1 rule"),
        (
            Retry(max_attempts=1, rules={KeyError: Retry(), ValueError: Retry()}),
            "1 attempt, 2 rules",
        ),
    ],
)
def test_policy_as_text(policy: Retry | None, text: str) -> None:
    """A policy is shown by its delays."""
    assert retry_text(policy) == text


def test_policy_as_data() -> None:
    """A policy is data down to its rules; exceptions and functions are names."""
    data = retry_data(Retry(give_up_on=(ValueError,), rules={KeyError: Retry(max_attempts=2)}))
    assert isinstance(data, dict)
    assert data["give_up_on"] == ["ValueError"]
    assert data["rules"]["KeyError"]["max_attempts"] == 2
    assert retry_data(own) == "own"
    assert retry_data(None) is None


def test_needs() -> None:
    """What a source asks beyond the common is named with the reason."""
    bus = Bus("memory://", config={"app": "a:b"})
    topic = Topic("t", str)

    async def around(ctx: Context, call_next: Next) -> object:
        return await call_next()

    async def handle(body: str) -> None: ...

    bus.handle(topic.subscription("s", start="earliest", temporary=True), middleware=[around], name="a")(handle)
    bus.handle(Queue("q", str), retry=Retry(max_attempts=1), name="b")(handle)
    bus.handle(Queue("o", str), ordering="key", retry=Retry(max_attempts=1), name="c")(handle)
    one, two, three = bus.plans()
    assert [capability for capability, _ in needs(one)] == ["nack_delay_max_s ≥ 8.8", "start", "temporary"]
    # The bus's policy decides about messages of a type that no handler takes.
    assert [capability for capability, _ in needs(two)] == ["nack_delay_max_s ≥ 8.8"]
    assert [capability for capability, _ in needs(three)] == ["ordering", "hold_max_s ≥ 8.8"]


def test_seconds() -> None:
    """A duration has its unit."""
    assert (seconds(None), seconds(1.5), seconds(30.0)) == (None, "1.5 s", "30 s")
