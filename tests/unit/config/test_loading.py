from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.config import Settings
from busframe.errors import InvalidSettings
from tests.unit.config.conftest import configure, problems

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
