"""How large a message is, before anything is sent."""

from busframe.model.message import Message

FRAMEWORK_RESERVE_BYTES = 48 * 1024
"""Kept free below a broker's limit for what the framework may add: a failure record, attempts, dates."""


def message_bytes(message: Message) -> int:
    """The size that is judged against ``Capabilities.max_message_bytes``: the body and the application's headers."""
    size = len(message.body)
    for name, value in message.headers.items():
        size += len(name) + (len(value) if value.isascii() else len(value.encode()))
    return size
