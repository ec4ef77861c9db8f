"""Every error that busframe raises, on one page.

Each one says what happened, to what, and what to do; its facts are attributes, and the text is built from them.
A client library's exception never escapes: it is the ``__cause__``.

What a handler raises to *steer* (``RetryAfter``, ``PauseSource``, ``Reject``, ``Discard``) is not here and is no
``BusframeError``, so that an ``except BusframeError`` in a handler leaves it alone.
"""

from collections.abc import Sequence


class BusframeError(Exception):
    """The root of all errors of this package."""


# ---------------------------------------------------------------------------------------------- configuration


class ConfigurationError(BusframeError):
    """The application or its configuration is wrong; raised before anything is sent or handled.

    Args:
        problems: one text, or all that were found, each saying what to do.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: Sequence[str] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems)} problems:" + "".join(f"\n  - {problem}" for problem in self.problems)


class UnknownTransport(ConfigurationError):
    """No installed plugin takes the scheme of the URL: install the plugin or correct the URL."""


class InvalidSettings(ConfigurationError):
    """A setting is unknown or has a value that it may not have."""


class InvalidName(ConfigurationError):
    """A queue, topic or subscription has a name that not every broker takes (semantics A.8)."""


class HandlerSignatureError(ConfigurationError):
    """A handler's parameters cannot be filled; raised where the handler is registered."""


class TopologyMismatch(ConfigurationError):
    """What exists on the broker differs from what the code asks, and cannot be changed in place."""


class Unsupported(BusframeError):
    """The transport cannot do this, and says so instead of pretending."""


# ---------------------------------------------------------------------------------------------- plugins


class PluginError(BusframeError):
    """A transport plugin cannot be used."""


class PluginBroken(PluginError):
    """An installed plugin cannot be imported; the ``__cause__`` says why. Other plugins are not affected."""


class SpiMismatch(PluginError):
    """A plugin was written for another version of the interface: upgrade the plugin or busframe."""


# ---------------------------------------------------------------------------------------------- transport


class TransportError(BusframeError):
    """The broker, or the way to it, failed.

    Args:
        what: what happened, to what, and what to do.
        transient: whether waiting and trying again can help. Policies read this, never the text.
    """

    def __init__(self, what: str = "the broker failed", *, transient: bool = True) -> None:
        super().__init__(what)
        self.transient = transient


class ConnectionFailed(TransportError):
    """The broker cannot be reached, or the connection to it was lost."""


class AccessDenied(TransportError):
    """The broker refuses these credentials, or this operation to them; waiting does not help."""

    def __init__(self, what: str = "access denied", *, transient: bool = False) -> None:
        super().__init__(what, transient=transient)


# ---------------------------------------------------------------------------------------------- publishing


class PublishError(BusframeError):
    """A message was not, or not surely, published. The same ``message_id`` can be published again.

    Args:
        what: what happened, to what, and what to do.
        message_id: the id of the message; the core fills it in where the transport left it empty.
    """

    def __init__(self, what: str = "", *, message_id: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.message_id = message_id

    def __str__(self) -> str:
        return f"{self.what} (message {self.message_id})" if self.message_id else self.what


class PublishFailed(PublishError):
    """The message is surely not on the broker.

    Args:
        transient: whether the same publish may succeed later.
    """

    def __init__(
        self, what: str = "the broker refused the message", *, message_id: str = "", transient: bool = True
    ) -> None:
        super().__init__(what, message_id=message_id)
        self.transient = transient


class Backpressure(PublishFailed):
    """The broker takes no more for now (a full queue, an alarm): publish again later."""


class PublishOutcomeUnknown(PublishError):
    """The message may or may not be on the broker: publishing it again may double it.

    No answer came in time, or a subscription of the topic refused it.
    """


class DestinationNotFound(PublishError):
    """The destination does not exist on the broker.

    Args:
        destination: its address, such as ``emails``.
    """

    def __init__(self, destination: str, *, message_id: str = "") -> None:
        super().__init__(
            f"{destination!r} does not exist on the broker: start what handles it, or create it there, or declare it "
            'with Bus(uses=[…]) and topology = "create"; and check the prefix setting',
            message_id=message_id,
        )
        self.destination = destination


class MessageTooLarge(PublishError):
    """The message is over the broker's limit; nothing was sent.

    Args:
        size: what the message would take, in bytes.
        limit: what the transport allows, in bytes.
    """

    def __init__(self, size: int, limit: int, *, message_id: str = "") -> None:
        super().__init__(
            f"the message has {size} bytes and the limit is {limit}: store the content elsewhere and send a reference",
            message_id=message_id,
        )
        self.size = size
        self.limit = limit
        self.args = (size, limit)  # what copy and pickle make it from


class InvalidHeader(PublishError):
    """A header, id, key or other field of the message could not travel unchanged on every broker (semantics A.6)."""


class EncodeFailed(PublishError):
    """The body cannot be turned into bytes by any codec."""


class RequestFailed(PublishError):
    """The handler of a request dead-lettered it.

    Args:
        reason: why, as in ``Message.dead.reason``.
    """

    def __init__(self, reason: str, *, message_id: str = "") -> None:
        super().__init__(f"the request failed: {reason}", message_id=message_id)
        self.reason = reason


class RequestTimedOut(PublishError):
    """No answer to a request came in time; the request may still be handled."""


# ---------------------------------------------------------------------------------------------- deliveries


class DeliveryError(BusframeError):
    """Something is wrong with one received message."""


class SettlementLost(DeliveryError):
    """The delivery belongs to the broker again (a lost connection, an expired lock): it will be delivered again."""


class AlreadySettled(DeliveryError):
    """A second verb was called on one delivery."""


class DecodeFailed(DeliveryError):
    """The body is not what the handler's annotation says; the message is dead-lettered as ``undecodable``."""


class UnknownType(DeliveryError):
    """No handler of the source takes messages of this type."""


class HandlerTimedOut(DeliveryError):
    """A handler ran longer than its ``timeout_s``."""


class ClosedError(BusframeError):
    """The bus is not open, or closed already."""
