"""What can be wrong with S."""

import ssl
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

from busframe import registry
from busframe.config import settings, transport
from busframe.conformance.mutants.mutant import MutantTransport, core_mutant, mutant
from busframe.conformance.mutants.server import server_core_mutant
from busframe.model.entity import Finding
from busframe.runtime import handle


@core_mutant("settings show all that is in them", "S1", says="the password shows in", of=settings, attribute="mask")
def shows_all(name: str, value: object) -> object:
    """Nothing is hidden."""
    return value


@core_mutant(
    "options in a URL are thrown away",
    "S1",
    says="an unknown option in the URL is not refused",
    of=transport,
    attribute="_split",
)
def no_query(url: str) -> tuple[str, dict[str, object], str | None]:
    """Only what is before the question mark."""
    return url.partition("?")[0], {}, None


@mutant("nothing is said of what a confirmation is worth", "S3", says="and nothing warns of it")
class SaysNothing(MutantTransport):
    """All is well."""

    async def diagnose(self) -> Sequence[Finding]:
        """Nothing to see."""
        return ()


def _nothing(*args: object, **named: object) -> None:
    """Where a text would go."""


@core_mutant("what at-most-once loses is not said", "S3", says="it is not said once", of=handle, attribute="logger")
class LosesSilently:
    """Stands for the logger."""

    info = warning = error = exception = staticmethod(_nothing)


@core_mutant("a plugin is imported unguarded", "S4", says="No module named 'broken", of=registry, attribute="_load")
def load_unguarded(entry: EntryPoint) -> Any:
    """Whatever that raises."""
    return entry.load()


@server_core_mutant(
    "certificates are not looked at",
    "S2",
    says="self-signed certificate was sent",
    of=ssl,
    attribute="create_default_context",
)
def trusts_everybody(*arguments: Any, **named: Any) -> ssl.SSLContext:
    """In place of a context that verifies."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
