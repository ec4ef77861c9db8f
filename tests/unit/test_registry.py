import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from busframe import registry
from busframe.errors import PluginBroken, PluginError, SpiMismatch, UnknownTransport
from busframe.registry import PluginState, find_plugin, list_plugins, register
from busframe.spi import SPI_VERSION, Host, Plugin, Transport


class Settings(BaseModel):
    url: str = ""


def create(settings: Settings, host: Host) -> Transport:
    """Make no transport."""
    raise NotImplementedError


def plugin(name: str, *schemes: str, spi_version: int = SPI_VERSION) -> Plugin[Any]:
    """A plugin that creates nothing."""
    return Plugin(name, schemes, Settings, create, spi_version)


class Distribution:
    """What an entry point says about where it comes from."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with entry points; nothing else is installed."""
    installed: list[EntryPoint] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [e for e in installed if e.group == group])
    monkeypatch.setattr(registry, "_registered", {})

    def install_one(distribution: str, module: str, *schemes: str, plugin: object = None) -> None:
        if plugin is not None:
            made = ModuleType(module)
            made.plugin = plugin  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module, made)
        for scheme in schemes:
            entry = EntryPoint(scheme, f"{module}:plugin", registry.GROUP)
            vars(entry)["dist"] = Distribution(distribution, "1.2")
            installed.append(entry)

    return install_one


class TestFindPlugin:
    def test_finds_the_plugin_of_a_scheme(self, install: Install) -> None:
        """The plugin whose entry point has the scheme's name is returned, for each of its schemes."""
        rabbit = plugin("rabbit", "amqp", "amqps")
        install("rabbit-dist", "fake_rabbit", "amqp", "amqps", plugin=rabbit)
        assert find_plugin("amqp") is rabbit
        assert find_plugin("amqps") is rabbit

    def test_imports_no_other_plugin(self, install: Install) -> None:
        """A broken plugin is not even imported when another one is asked for."""
        install("broken-dist", "fake_module_that_is_not_there", "aaa")
        install("good-dist", "fake_good", "good", plugin=plugin("good", "good"))
        assert find_plugin("good").name == "good"

    def test_unknown_scheme_lists_the_installed_ones(self, install: Install) -> None:
        """An unknown scheme names what is installed, and what is close to it."""
        install("one", "fake_one", "memory", plugin=plugin("memory", "memory"))
        with pytest.raises(UnknownTransport, match=r"memry://.*did you mean memory://\?.*installed are memory://"):
            find_plugin("memry")

    @pytest.mark.parametrize(
        ("scheme", "distribution"),
        [
            ("amqp", "busframe-rabbitmq"),
            ("kafka", "busframe-kafka"),
            ("nats", "busframe-nats"),
            ("servicebus", "busframe-servicebus"),
            ("sqlite", "busframe-sqlite"),
        ],
    )
    def test_well_known_scheme_names_what_to_install(self, install: Install, scheme: str, distribution: str) -> None:
        """A well-known scheme without its plugin says which distribution to install."""
        with pytest.raises(UnknownTransport, match=f"install {distribution}; no plugin is installed"):
            find_plugin(scheme)

    def test_close_to_a_well_known_scheme(self, install: Install) -> None:
        """A mistyped scheme of a plugin that is not installed names the scheme and its distribution."""
        with pytest.raises(UnknownTransport, match=r"did you mean kafka:// \(of busframe-kafka\)\?"):
            find_plugin("kafak")

    def test_upper_case_scheme(self, install: Install) -> None:
        """A scheme in capitals is told to be written in lower case."""
        install("one", "fake_one", "memory", plugin=plugin("memory", "memory"))
        with pytest.raises(UnknownTransport, match="write memory:// in lower case"):
            find_plugin("Memory")

    def test_broken_plugin_keeps_its_cause(self, install: Install) -> None:
        """A plugin that cannot be imported names itself and has the import's error as its cause."""
        install("broken-dist", "fake_module_that_is_not_there", "amqp")
        with pytest.raises(PluginBroken, match=r"broken-dist.*ModuleNotFoundError.*fake_module") as caught:
            find_plugin("amqp")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    def test_entry_point_that_names_no_plugin(self, install: Install) -> None:
        """What is not a ``Plugin`` is refused, and its class is named."""
        install("odd-dist", "fake_odd", "odd", plugin={"name": "odd"})
        with pytest.raises(PluginBroken, match=r"odd-dist names a dict, not a busframe\.spi\.Plugin"):
            find_plugin("odd")

    def test_plugin_that_does_not_take_its_own_entry_point(self, install: Install) -> None:
        """An entry point whose scheme the plugin does not take is the plugin's mistake, and said to be."""
        install("odd-dist", "fake_odd", "odd", plugin=plugin("odd", "even"))
        with pytest.raises(PluginBroken, match="takes only even://"):
            find_plugin("odd")

    @pytest.mark.parametrize(("version", "cure"), [(SPI_VERSION - 1, "the plugin"), (SPI_VERSION + 1, "busframe")])
    def test_other_version_of_the_interface(self, install: Install, version: int, cure: str) -> None:
        """A plugin for another version of the interface is refused, and says which side to upgrade."""
        install("old-dist", "fake_old", "old", plugin=plugin("old", "old", spi_version=version))
        with pytest.raises(SpiMismatch, match=f"version {version} .* upgrade {cure}"):
            find_plugin("old")

    def test_scheme_claimed_twice(self, install: Install) -> None:
        """Two distributions for one scheme are an error that names both, not a choice by chance."""
        install("first-dist", "fake_first", "amqp", plugin=plugin("first", "amqp"))
        install("second-dist", "fake_second", "amqp", plugin=plugin("second", "amqp"))
        with pytest.raises(PluginError, match="claimed by first-dist and second-dist: uninstall all but one"):
            find_plugin("amqp")


class TestRegister:
    def test_goes_before_an_installed_one(self, install: Install) -> None:
        """A registered plugin is found, also where an installed one has its scheme."""
        install("first-dist", "fake_first", "amqp", plugin=plugin("first", "amqp"))
        mine = plugin("mine", "amqp")
        register(mine)
        assert find_plugin("amqp") is mine

    def test_same_name_replaces(self, install: Install) -> None:
        """Registering a name again replaces the plugin, and its old schemes are gone."""
        register(plugin("mine", "a", "b"))
        newer = plugin("mine", "b")
        register(newer)
        assert find_plugin("b") is newer
        with pytest.raises(UnknownTransport):
            find_plugin("a")

    def test_scheme_of_another_is_refused(self, install: Install) -> None:
        """Two registered plugins of different names cannot share a scheme."""
        register(plugin("mine", "a"))
        with pytest.raises(PluginError, match="a:// is taken by 'mine', registered before 'yours'"):
            register(plugin("yours", "a"))

    @pytest.mark.parametrize("schemes", [(), ("A",), ("a://",), ("1a",), ("",)])
    def test_bad_schemes(self, install: Install, schemes: tuple[str, ...]) -> None:
        """A plugin has at least one scheme, and each is one."""
        with pytest.raises(PluginError, match="scheme"):
            register(plugin("mine", *schemes))

    def test_other_version_of_the_interface(self, install: Install) -> None:
        """A registered plugin is checked as an installed one is."""
        with pytest.raises(SpiMismatch):
            register(plugin("mine", "a", spi_version=SPI_VERSION + 1))


class TestListPlugins:
    def test_broken_plugin_hides_no_other(self, install: Install) -> None:
        """Every plugin is listed once with its state; the unusable ones with their error."""
        install("good-dist", "fake_good", "good", "goods", plugin=plugin("good", "good", "goods"))
        install("broken-dist", "fake_module_that_is_not_there", "aaa", "bbb")
        install("old-dist", "fake_old", "old", plugin=plugin("old", "old", spi_version=SPI_VERSION - 1))
        register(plugin("mine", "mine"))
        states = {state.name: state for state in list_plugins()}
        assert states["good"] == PluginState("good", "good-dist", "1.2", ("good", "goods"), "ok")
        assert states["mine"] == PluginState("mine", None, None, ("mine",), "ok")
        broken = states["fake_module_that_is_not_there:plugin"]
        assert (broken.state, broken.schemes) == ("broken", ("aaa", "bbb"))
        assert "ModuleNotFoundError" in (broken.error or "")
        old = states["fake_old:plugin"]
        assert old.state == "incompatible"
        assert "upgrade the plugin" in (old.error or "")

    def test_conflict_is_shown_on_both(self, install: Install) -> None:
        """Two distributions for one scheme are both shown as unusable, with the cure."""
        install("first-dist", "fake_first", "amqp", plugin=plugin("first", "amqp"))
        install("second-dist", "fake_second", "amqp", plugin=plugin("second", "amqp"))
        states = list_plugins()
        assert [(state.name, state.state) for state in states] == [("first", "broken"), ("second", "broken")]
        assert all("uninstall all but one" in (state.error or "") for state in states)

    def test_entry_point_without_distribution(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        """An entry point of no known distribution is listed, too."""
        entry = EntryPoint("good", "fake_good:plugin", registry.GROUP)
        monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [entry])
        install("good-dist", "fake_good", plugin=plugin("good", "good"))
        assert list_plugins() == [PluginState("good", None, None, ("good",), "ok")]
