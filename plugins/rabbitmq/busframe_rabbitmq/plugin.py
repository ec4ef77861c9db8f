"""What the entry points ``amqp`` and ``amqps`` name. Importing it does not import the client library."""

from typing import TYPE_CHECKING

from busframe.spi.plugin import Plugin
from busframe_rabbitmq.settings import Settings

if TYPE_CHECKING:
    from busframe.spi.transport import Host, Transport


def create(settings: Settings, host: "Host") -> "Transport":
    """Make the transport; connects nothing."""
    from busframe_rabbitmq.transport import RabbitMQ

    return RabbitMQ(settings, host)


plugin = Plugin("rabbitmq", ("amqp", "amqps"), Settings, create)
