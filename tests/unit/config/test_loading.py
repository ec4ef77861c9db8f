from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.config import Configuration, RetrySettings, Settings, load
from busframe.errors import ConfigurationError, InvalidSettings
from busframe.logic.retry import Failure, Retry
from busframe.model.settlement import Nack


def configure(
    folder: Path,
    toml: str = "",
    *,
    arguments: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    **more: Any,
) -> Configuration:
    """Load with a busframe.toml in a folder, and with nothing from outside."""
    if toml:
        (folder / "busframe.toml").write_text(toml, encoding="utf-8")
    return load(arguments or {}, options or {}, start=folder, environ=environ or {}, **more)


def problems(folder: Path, toml: str = "", **more: Any) -> list[str]:
    """What is wrong."""
    with pytest.raises(InvalidSettings) as caught:
        configure(folder, toml, **more)
    return list(caught.value.problems)


ALL = """
url = "amqp://file"
drain_timeout_s = 1
[transports.rabbitmq]
heartbeat_s = 1
window = 1
[handlers.work]
concurrency = 1
prefetch = 1
[profiles.production]
url = "amqp://profile"
[profiles.production.transports.rabbitmq]
window = 2
"""


class TestSources:
    def test_defaults(self, tmp_path: Path) -> None:
        """Without any source every setting has its default, and no broker."""
        found = configure(tmp_path)
        assert found.settings == Settings()
        assert found.settings.url is None
        assert set(found.origins.values()) == {"default"}
        assert set(found.origins) == set(Settings.model_fields)
        assert found.file is None

    @pytest.mark.parametrize(
        ("sources", "url", "origin"),
        [
            ({"options", "arguments", "environ", "profile"}, "amqp://option", "option --url"),
            ({"arguments", "environ", "profile"}, "amqp://argument", "argument of Bus"),
            ({"environ", "profile"}, "amqp://environment", "environment BUSFRAME_URL"),
            ({"profile"}, "amqp://profile", "profile production"),
            (set(), "amqp://file", "busframe.toml"),
        ],
    )
    def test_strongest_wins(self, tmp_path: Path, sources: set[str], url: str, origin: str) -> None:
        """Options go before arguments of Bus, environment, profile and file; the origin says which it was."""
        given: dict[str, Any] = {
            "options": {"url": "amqp://option"},
            "arguments": {"url": "amqp://argument"},
            "environ": {"BUSFRAME_URL": "amqp://environment"},
            "profile": "production",
        }
        found = configure(tmp_path, ALL, **{name: value for name, value in given.items() if name in sources})
        assert found.settings.url == url
        assert found.origins["url"] == origin
        assert found.origins["drain_timeout_s"] == "busframe.toml"
        assert found.file == tmp_path / "busframe.toml"

    def test_tables_merge_deeply(self, tmp_path: Path) -> None:
        """Each source adds to the tables of the others, and each value in them has its origin."""
        found = configure(
            tmp_path,
            ALL,
            environ={"BUSFRAME_PROFILE": "production", "BUSFRAME_HANDLERS__WORK__PREFETCH": "7"},
            arguments={"transports": {"rabbitmq": {"frame_max": 3}}},
        )
        assert found.profile == "production"
        assert found.settings.transports == {"rabbitmq": {"heartbeat_s": 1, "window": 2, "frame_max": 3}}
        assert found.settings.handlers["work"].concurrency == 1
        assert found.settings.handlers["work"].prefetch == 7
        assert {key: origin for key, origin in found.origins.items() if "." in key} == {
            "transports.rabbitmq.heartbeat_s": "busframe.toml",
            "transports.rabbitmq.window": "profile production",
            "transports.rabbitmq.frame_max": "argument of Bus",
            "handlers.work.concurrency": "busframe.toml",
            "handlers.work.prefetch": "environment BUSFRAME_HANDLERS__WORK__PREFETCH",
        }
        assert "transports" not in found.origins

    @given(said=st.lists(st.booleans(), min_size=5, max_size=5), names=st.permutations(["a", "b.c", "d"]))
    def test_precedence_holds_for_any_choice_of_sources(
        self, tmp_path_factory: pytest.TempPathFactory, said: list[bool], names: list[str]
    ) -> None:
        """Whichever sources say a value, in whatever table, the strongest of them decides."""
        name = names[0]
        toml = f'[handlers."{name}"]\nconcurrency = 1\n' if said[0] else "prefix = ''\n"
        toml += "[profiles.p]\n" + (f'handlers = {{"{name}" = {{concurrency = 2}}}}\n' if said[1] else "")
        variable = f"BUSFRAME_HANDLERS__{name.upper().replace('.', '_')}__CONCURRENCY"
        found = configure(
            tmp_path_factory.mktemp("precedence"),
            toml,
            profile="p",
            environ={variable: "3"} if said[2] else {},
            arguments={"handlers": {name: {"concurrency": 4}}} if said[3] else {},
            options={"handlers": {name: {"concurrency": 5}}} if said[4] else {},
            names=names,
        )
        strongest = max((place for place, is_said in enumerate(said, 1) if is_said), default=None)
        handler = found.settings.handlers.get(name)
        assert (handler.concurrency if handler else None) == strongest

    def test_options_that_are_not_given(self, tmp_path: Path) -> None:
        """An option that is None is none."""
        found = configure(tmp_path, ALL, options={"url": None, "drain_timeout_s": 9.0})
        assert found.settings.url == "amqp://file"
        assert found.origins["drain_timeout_s"] == "option --drain-timeout"


class TestFile:
    def test_found_in_a_parent(self, tmp_path: Path) -> None:
        """The nearest file upwards counts."""
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True)
        (tmp_path / "busframe.toml").write_text('prefix = "outer"')
        assert configure(inner).settings.prefix == "outer"
        (tmp_path / "a" / "pyproject.toml").write_text('[tool.busframe]\nprefix = "nearer"')
        found = configure(inner)
        assert (found.settings.prefix, found.origins["prefix"]) == ("nearer", "pyproject.toml")

    def test_busframe_toml_goes_before_pyproject(self, tmp_path: Path) -> None:
        """In one folder the file of its own wins, and the other is not mixed in."""
        (tmp_path / "pyproject.toml").write_text('[tool.busframe]\nprefix = "p"\napp = "a:b"')
        found = configure(tmp_path, 'prefix = "b"')
        assert (found.settings.prefix, found.settings.app) == ("b", None)

    def test_pyproject_of_somebody_else(self, tmp_path: Path) -> None:
        """A pyproject.toml without our table, even a broken one, is not our business."""
        (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = = 1")
        assert configure(tmp_path).file is None
        (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["busframe"]')
        assert configure(tmp_path).file is None
        (tmp_path / "pyproject.toml").write_text("[tool]\nbusframe = 3")
        assert "write [tool.busframe]" in problems(tmp_path)[0]

    def test_named_by_the_environment(self, tmp_path: Path) -> None:
        """``BUSFRAME_CONFIG`` names another file, relative to the working directory."""
        (tmp_path / "other.toml").write_text('prefix = "o"')
        found = configure(tmp_path, 'prefix = "b"', environ={"BUSFRAME_CONFIG": "other.toml"})
        assert (found.settings.prefix, found.origins["prefix"]) == ("o", "other.toml")
        (tmp_path / "pyproject.toml").write_text('[tool.busframe]\nprefix = "p"')
        assert configure(tmp_path, environ={"BUSFRAME_CONFIG": "pyproject.toml"}).settings.prefix == "p"

    def test_named_but_not_there(self, tmp_path: Path) -> None:
        """A named file that is not there is an error, not a silent default."""
        (problem,) = problems(tmp_path, environ={"BUSFRAME_CONFIG": "nowhere.toml"})
        assert problem.startswith("environment BUSFRAME_CONFIG: there is no file")
        assert "nowhere.toml" in problem

    def test_syntax_error_names_file_and_line(self, tmp_path: Path) -> None:
        """A mistake in TOML names file and line, and shows no text of the file, which may hold a password."""
        with pytest.raises(InvalidSettings, match=r"busframe\.toml, line 2: this is not TOML") as caught:
            configure(tmp_path, 'prefix = "a"\nurl = "amqp://u:secret@h\n')
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert "line 1" in problems(tmp_path, "prefix =")[0]

    def test_not_text(self, tmp_path: Path) -> None:
        """A file that cannot be decoded is named."""
        (tmp_path / "busframe.toml").write_bytes(b"\xff\xfe")
        assert "busframe.toml cannot be read" in problems(tmp_path)[0]

    def test_path_is_shown_where_it_is_not_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file in the working directory is shown by its name, another with its path."""
        assert problems(tmp_path, "x = 1")[0].startswith(f"{tmp_path / 'busframe.toml'}: x is unknown")
        monkeypatch.chdir(tmp_path)
        assert problems(tmp_path, "x = 1")[0].startswith("busframe.toml: x is unknown")


class TestProfiles:
    def test_unknown_one_names_those_that_exist(self, tmp_path: Path) -> None:
        """A profile that does not exist names the close one and all others."""
        (problem,) = problems(tmp_path, "[profiles.production]\n[profiles.test]", profile="prodction")
        assert problem.startswith("option --profile: ")
        assert "no profile 'prodction'; did you mean 'production'? It has production, test" in problem

    def test_without_any(self, tmp_path: Path) -> None:
        """A profile is asked for, and there is no file or none in it."""
        (problem,) = problems(tmp_path, environ={"BUSFRAME_PROFILE": "p"})
        assert problem.startswith("environment BUSFRAME_PROFILE: there is no profile 'p', because there is no busframe")
        assert "write [profiles.p] there" in problems(tmp_path, "prefix = ''", environ={"BUSFRAME_PROFILE": "p"})[0]

    def test_unused_profile_is_checked(self, tmp_path: Path) -> None:
        """A mistake in a profile shows wherever the file is read, not first in production."""
        (problem,) = problems(tmp_path, "[profiles.production]\ntopolgy = 'verify'")
        assert "profile production: topolgy is unknown; did you mean topology?" in problem

    def test_used_profile_is_reported_once(self, tmp_path: Path) -> None:
        """The chosen profile's mistakes are not said twice."""
        assert len(problems(tmp_path, "[profiles.p]\ntopolgy = 'verify'", profile="p")) == 1

    @pytest.mark.parametrize("toml", ["profiles = 3", "[profiles]\np = 3"])
    def test_not_a_table(self, tmp_path: Path, toml: str) -> None:
        """Profiles are tables."""
        assert "must be a table: write [profiles." in problems(tmp_path, toml)[0]


class TestProblems:
    def test_all_at_once(self, tmp_path: Path) -> None:
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
    def test_key_and_value(self, tmp_path: Path, toml: str, problem: str) -> None:
        """A wrong key names the close ones, a wrong value what it may be."""
        (found,) = problems(tmp_path, toml)
        assert problem in found
        assert "secret" not in found

    def test_secrets_are_not_repeated(self, tmp_path: Path) -> None:
        """A wrong value that holds a secret is not shown, nor does the error's chain hold it."""
        with pytest.raises(InvalidSettings) as caught:
            configure(tmp_path, environ={"BUSFRAME_URL": "u:secret@h"}, arguments={"app": ["amqp://u:secret@h"]})
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    def test_said_twice(self, tmp_path: Path) -> None:
        """An unknown key that several sources have names all of them."""
        (problem,) = problems(tmp_path, "topolgy = 1", arguments={"topolgy": 2})
        assert problem.startswith("argument of Bus and ")

    def test_no_broker(self, tmp_path: Path) -> None:
        """Where nobody says a broker, the line to write is shown; nothing is assumed."""
        with pytest.raises(
            ConfigurationError, match=r"there is no busframe\.toml.*url = \"amqp://.*BUSFRAME_URL=amqp://"
        ):
            configure(tmp_path).require_url()
        with pytest.raises(ConfigurationError, match=r"busframe\.toml does not say it"):
            configure(tmp_path, "prefix = ''").require_url()
        assert configure(tmp_path, 'url = "memory://"').require_url() == "memory://"


class TestEnvironment:
    def test_other_programs_variables(self, tmp_path: Path) -> None:
        """Variables that are close to no setting belong to somebody else, and empty ones say nothing."""
        environ = {"BUSFRAME_TEST_AMQP_URL": "x", "BUSFRAME_URL": "", "BUSFRAME_PROFILE": "", "BUSFRAME_CONFIG": ""}
        assert configure(tmp_path, environ=environ).settings == Settings()

    def test_typing_mistake(self, tmp_path: Path) -> None:
        """A variable that is close to a setting is a mistake."""
        (problem,) = problems(tmp_path, environ={"BUSFRAME_TRANSPORT__RABBITMQ__WINDOW": "3"})
        assert problem == (
            "environment BUSFRAME_TRANSPORT__RABBITMQ__WINDOW: there is no such setting; "
            "did you mean BUSFRAME_TRANSPORTS__RABBITMQ__WINDOW?"
        )

    def test_values_stay_texts(self, tmp_path: Path) -> None:
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

    def test_names_are_found_without_regard_to_case_and_dashes(self, tmp_path: Path) -> None:
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

    def test_ambiguous_name(self, tmp_path: Path) -> None:
        """A variable that could mean two names is refused."""
        environ = {"BUSFRAME_HANDLERS__A_B__CONCURRENCY": "2"}
        (problem,) = problems(tmp_path, environ=environ, names=["a-b", "a.b"])
        assert problem == "environment BUSFRAME_HANDLERS__A_B__CONCURRENCY: a-b or a.b? Say it in busframe.toml instead"

    def test_table_and_value_at_once(self, tmp_path: Path) -> None:
        """Two variables that cannot both be true are an error."""
        environ = {"BUSFRAME_TRANSPORTS__KAFKA": "x", "BUSFRAME_TRANSPORTS__KAFKA__SERVERS": "y"}
        found = problems(tmp_path, environ=environ)
        assert any("another variable says that kafka is not a table" in problem for problem in found)


class TestSettings:
    def test_secrets_do_not_show(self) -> None:
        """Neither the URL's password nor one in a table shows in repr."""
        settings = Settings(url="amqp://u:secret@h", transports={"nats": {"token": "secret", "servers": 1}})
        assert "secret" not in repr(settings)
        assert "secret" not in str(settings)
        assert "amqp://***@h" in repr(settings)

    def test_scheme(self) -> None:
        """The scheme is in lower case, as plugins have it."""
        assert Settings(url="AMQP://h").scheme == "amqp"
        assert Settings().scheme is None

    def test_made_directly_it_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``Settings()`` takes only its arguments."""
        monkeypatch.setenv("URL", "amqp://h")
        monkeypatch.setenv("BUSFRAME_URL", "amqp://h")
        assert Settings().url is None

    def test_retry_over(self) -> None:
        """The configured numbers replace the policy's own; what cannot be said in TOML stays."""
        policy = RetrySettings(max_attempts=8, delay_s=2).over(Retry(factor=3.0, give_up_on=(ValueError,)))
        assert policy == Retry(max_attempts=8, delay_s=2.0, factor=3.0, give_up_on=(ValueError,))

    def test_retry_over_a_policy_of_ones_own(self) -> None:
        """A function has no numbers to replace."""

        def own(failure: Failure) -> Nack:
            return Nack()

        with pytest.raises(ConfigurationError, match="not a Retry"):
            RetrySettings(max_attempts=8).over(own)
