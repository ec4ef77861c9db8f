"""What the entry points ``nats`` and ``nats+tls`` name. Importing it does not import the client library."""

from typing import TYPE_CHECKING

from busframe.spi.plugin import Plugin
from busframe_nats.settings import Settings

if TYPE_CHECKING:
    from busframe.spi.transport import Host, Transport


def create(settings: Settings, host: "Host") -> "Transport":
    """Make the transport; connects nothing."""
    from busframe_nats.transport import Nats

    return Nats(settings, host)


plugin = Plugin("nats", ("nats", "nats+tls"), Settings, create)
