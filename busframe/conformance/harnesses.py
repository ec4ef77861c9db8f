"""How the kit finds the harness for a URL: one entry point in the group ``busframe.harnesses`` for each scheme."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from busframe.config import Settings, transport_settings
from busframe.conformance.clients import Clients
from busframe.conformance.harness import Harness
from busframe.errors import InvalidSettings, PluginBroken, PluginError
from busframe.registry import find_plugin
from busframe.spi.plugin import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "busframe.harnesses"


def read_url(url: str) -> tuple[Plugin[Any], Any]:
    """The plugin that takes a URL, and its settings with what the URL says. Connects nothing.

    Raises:
        InvalidSettings: it is no URL, or the plugin has no such option.
        UnknownTransport: no installed plugin takes the scheme.
        PluginBroken: the one that does cannot be imported.
    """
    try:
        settings = Settings(url=url)
    except ValidationError as failed:
        problems = [str(error["msg"]).replace("Value error,", "the URL") for error in failed.errors()]
        raise InvalidSettings(problems) from None
    plugin = find_plugin(settings.scheme or "")
    return plugin, transport_settings(plugin, settings, {"url": "argument"})


def find_harness(url: str) -> Harness:
    """The harness for a broker that answers at a URL.

    Raises:
        InvalidSettings, UnknownTransport, PluginBroken: as for ``read_url``; the harness cannot be imported.
        PluginError: the plugin brings no harness.
    """
    plugin, _ = read_url(url)
    scheme = url.partition(":")[0].lower()
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in entries:
        known = ", ".join(f"{name}://" for name in sorted(entries)) or "nothing"
        raise PluginError(
            f"the plugin {plugin.name!r} brings no harness for the conformance kit, so {scheme}:// cannot be checked; "
            f"installed are harnesses for {known}"
        )
    try:
        make: Callable[[str], Harness] = entries[scheme].load()
    except Exception as error:
        raise PluginBroken(f"the harness for {scheme}:// cannot be imported: {error!r}") from error
    return make(url)


async def reach(url: str, harness: Harness) -> None:
    """Connect once, as any client does, so that a broker that is not there is one error and not one for each check.

    Raises:
        ConnectionFailed, AccessDenied: the broker cannot be reached, or refuses.
    """
    plugin, settings = read_url(url)
    transport = plugin.create(settings, Clients(harness, "reach").host())
    try:
        await transport.open()
    finally:
        await transport.close()
