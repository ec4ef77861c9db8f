"""Which transports there are: entry points in the group ``busframe.transports``, and plugins registered in process.

An entry point's name is a URL scheme and its value names a ``Plugin``. Only the one that is asked for is imported, so
that a broken plugin hides no other and nobody waits for a client library that is not used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from busframe.errors import PluginBroken, PluginError, SpiMismatch, UnknownTransport
from busframe.spi.plugin import SPI_VERSION, Plugin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint  # imported where it is used: it is slow, and not every program needs it

GROUP = "busframe.transports"

_WELL_KNOWN = {
    "amqp": "busframe-rabbitmq",
    "amqps": "busframe-rabbitmq",
    "rabbitmq": "busframe-rabbitmq",
    "kafka": "busframe-kafka",
    "nats": "busframe-nats",
    "servicebus": "busframe-servicebus",
    "sb": "busframe-servicebus",
    "sqlite": "busframe-sqlite",
}
"""Which distribution to install for a scheme. Only a hint in an error: what is installed is asked, never assumed."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_registered: dict[str, Plugin[Any]] = {}


@dataclass(frozen=True, slots=True)
class PluginState:
    """What is known of one plugin.

    Attributes:
        name: of the plugin; of one that cannot be loaded, what its entry point names.
        distribution: what to install or uninstall; None: registered by this process.
        version: of the distribution.
        schemes: the URL schemes that it takes.
        state: whether it can be used; ``incompatible``: it was written for another version of the interface.
        error: why it cannot be used, and what to do; else None.
    """

    name: str
    distribution: str | None
    version: str | None
    schemes: tuple[str, ...]
    state: Literal["ok", "broken", "incompatible"]
    error: str | None = None


def register(plugin: Plugin[Any]) -> None:
    """Make a plugin known to this process; it goes before an installed one of the same scheme.

    Registering a plugin of the same name again replaces it.

    Raises:
        PluginError: it has no valid scheme, or another registered plugin has one of its schemes.
        SpiMismatch: it was written for another version of the interface.
    """
    _check_version(plugin, f"plugin {plugin.name!r}")
    if not plugin.schemes:
        raise PluginError(f"plugin {plugin.name!r} takes no URL scheme: give it at least one")
    for scheme in plugin.schemes:
        if not _SCHEME.fullmatch(scheme):
            raise PluginError(
                f"plugin {plugin.name!r}: {scheme!r} is no URL scheme: use lower-case letters, digits and '+.-', "
                "beginning with a letter, without '://'"
            )
        other = _registered.get(scheme)
        if other is not None and other.name != plugin.name:
            raise PluginError(f"{scheme}:// is taken by {other.name!r}, registered before {plugin.name!r}: change one")
    for scheme in [scheme for scheme, other in _registered.items() if other.name == plugin.name]:
        del _registered[scheme]
    _registered.update(dict.fromkeys(plugin.schemes, plugin))


def find_plugin(scheme: str) -> Plugin[Any]:
    """The plugin that takes URLs of a scheme; imports that one alone.

    Raises:
        UnknownTransport: none does; names the installed schemes, the close ones, and what to install.
        PluginBroken: it cannot be imported; the ``__cause__`` says why.
        SpiMismatch: it was written for another version of the interface.
        PluginError: several distributions claim the scheme.
    """
    if scheme in _registered:
        return _registered[scheme]
    entries = _entries()
    claims = [entry for entry in entries if entry.name == scheme]
    if not claims:
        raise UnknownTransport(_unknown(scheme, {*_registered, *(entry.name for entry in entries)}))
    if len(claims) > 1:
        raise PluginError(_conflict(scheme, claims))
    return _load(claims[0])


def list_plugins() -> list[PluginState]:
    """All plugins in the order of their names, the unusable ones with their error. Imports each of them."""
    states = [
        PluginState(plugin.name, None, None, plugin.schemes, "ok")
        for plugin in {id(plugin): plugin for plugin in _registered.values()}.values()
    ]
    entries = _entries()
    owned: dict[tuple[str | None, str], list[EntryPoint]] = {}
    for entry in entries:
        owned.setdefault((_distribution(entry), entry.value), []).append(entry)
    states += [_state(entries, of_one) for of_one in owned.values()]
    return sorted(states, key=lambda state: (state.name, state.distribution or ""))


def _entries() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _distribution(entry) or ""))


def _distribution(entry: EntryPoint) -> str | None:
    return entry.dist.name if entry.dist is not None else None


def _owner(entry: EntryPoint) -> str:
    return _distribution(entry) or entry.value


def _load(entry: EntryPoint) -> Plugin[Any]:
    try:
        plugin = entry.load()
    except Exception as failed:
        raise PluginBroken(
            f"the plugin for {entry.name}:// ({entry.value} of {_owner(entry)}) cannot be imported: "
            f"{type(failed).__name__}: {failed}; install {_owner(entry)} again, with its dependencies"
        ) from failed
    if not isinstance(plugin, Plugin):
        raise PluginBroken(
            f"the entry point {entry.name} = {entry.value!r} of {_owner(entry)} names a {type(plugin).__name__}, not a "
            "busframe.spi.Plugin: the plugin has to be corrected"
        )
    _check_version(plugin, f"plugin {plugin.name!r} of {_owner(entry)}")
    if entry.name not in plugin.schemes:
        raise PluginBroken(
            f"{_owner(entry)} has an entry point for {entry.name}://, but its plugin {plugin.name!r} takes only "
            f"{_listed(plugin.schemes)}: the plugin has to be corrected"
        )
    return plugin


def _check_version(plugin: Plugin[Any], who: str) -> None:
    if plugin.spi_version != SPI_VERSION:
        older = "the plugin" if plugin.spi_version < SPI_VERSION else "busframe"
        raise SpiMismatch(
            f"{who} was written for version {plugin.spi_version} of busframe's plugin interface, and this busframe has "
            f"version {SPI_VERSION}: upgrade {older}"
        )


def _state(entries: list[EntryPoint], of_one: list[EntryPoint]) -> PluginState:
    name, schemes = of_one[0].value, tuple(entry.name for entry in of_one)
    state: Literal["ok", "broken", "incompatible"] = "ok"
    error: str | None = None
    try:
        for entry in of_one:
            name = _load(entry).name
    except SpiMismatch as mismatch:
        state, error = "incompatible", str(mismatch)
    except PluginError as broken:
        state, error = "broken", str(broken)
    for scheme in schemes:
        claims = [entry for entry in entries if entry.name == scheme]
        if error is None and len(claims) > 1:
            state, error = "broken", _conflict(scheme, claims)
    dist = of_one[0].dist
    return PluginState(
        name, _distribution(of_one[0]), dist.version if dist is not None else None, schemes, state, error
    )


def _conflict(scheme: str, claims: list[EntryPoint]) -> str:
    return f"{scheme}:// is claimed by {' and '.join(_owner(entry) for entry in claims)}: uninstall all but one"


def _unknown(scheme: str, installed: set[str]) -> str:
    if scheme.lower() != scheme and scheme.lower() in installed:
        return f"no plugin takes {scheme}://: write {scheme.lower()}:// in lower case"
    close = get_close_matches(scheme, sorted(installed | set(_WELL_KNOWN)), n=2)
    cures = []
    if scheme in _WELL_KNOWN:
        cures.append(f"install {_WELL_KNOWN[scheme]}")
    elif close:
        hints = (name + "://" + ("" if name in installed else f" (of {_WELL_KNOWN[name]})") for name in close)
        cures.append(f"did you mean {' or '.join(hints)}?")
    cures.append(f"installed are {_listed(sorted(installed))}" if installed else "no plugin is installed")
    return f"no installed plugin takes {scheme}://: {'; '.join(cures)}"


def _listed(schemes: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)
