"""How the kit finds the harness for a URL: one entry point in the group ``busframe.harnesses`` for each scheme."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from busframe.conformance.harness import Harness
from busframe.errors import PluginBroken, UnknownTransport

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "busframe.harnesses"


def find_harness(url: str) -> Harness:
    """The harness for a broker that answers at a URL.

    Raises:
        UnknownTransport: no installed plugin brings a harness for the scheme.
        PluginBroken: the one that does cannot be imported.
    """
    scheme = url.partition("://")[0].lower()
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in entries:
        known = ", ".join(f"{name}://" for name in sorted(entries)) or "none"
        raise UnknownTransport(f"no installed plugin brings a harness for {scheme}://: there are {known}")
    try:
        make: Callable[[str], Harness] = entries[scheme].load()
    except Exception as error:
        raise PluginBroken(f"the harness for {scheme}:// cannot be imported: {error!r}") from error
    return make(url)
