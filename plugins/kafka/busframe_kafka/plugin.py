"""What the entry points ``kafka`` and ``kafka+ssl`` name. Importing it does not import the client library."""

from typing import TYPE_CHECKING

from busframe.spi.plugin import Plugin
from busframe_kafka.settings import Settings

if TYPE_CHECKING:
    from busframe.spi.transport import Host, Transport


def create(settings: Settings, host: "Host") -> "Transport":
    """Make the transport; connects nothing."""
    from busframe_kafka.transport import Kafka

    return Kafka(settings, host)


plugin = Plugin("kafka", ("kafka", "kafka+ssl"), Settings, create)
