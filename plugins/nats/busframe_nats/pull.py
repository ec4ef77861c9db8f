"""A continuous pull from one consumer: overlapping requests, an account of what they still owe, a watch over them.

The server answers a request with messages, and with a status where it ends the request before (ADR-13, ADR-37). What
requests still owe is counted for all of them together, since a message does not say which one it answers. Wherever the
account is in doubt the subscription is replaced by a new one: with it the server forgets the requests, and what it has
sent already is still taken.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from busframe_nats.answers import NO_RESPONDERS
from busframe_nats.client import Connection
from busframe_nats.mapping import split, status
from busframe_nats.topology import SECOND

log = logging.getLogger(__name__)

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 2 * HEARTBEAT_S + 1
"""After so long without a message or a heartbeat the requests are lost."""

HEARTBEAT, BAD_REQUEST, NO_MESSAGES, TIMEOUT, CONFLICT = 100, 400, 404, 408, 409
_FINISHED = ("batch completed", "exceeds maxbytes", "request timeout")

OnMessage = Callable[["Pull", bytes, bytes, bytes | None], None]


class Pull:
    """Pulls from one consumer over whatever connection there is.

    Args:
        subject: that requests go to.
        on_message: (this, subject of acknowledgements, payload, headers) for each message.
        on_trouble: (this, code, text) when requests ended for a reason that asking again may not help; 503: nobody is
            there, 409: the consumer was deleted or moved, 400: the server does not understand.
        now: the loop's clock, in seconds.

    Attributes:
        owed: how many messages may still come without asking.
    """

    def __init__(
        self,
        subject: str,
        on_message: OnMessage,
        on_trouble: Callable[["Pull", int, str], None],
        now: Callable[[], float],
    ) -> None:
        self.subject = subject
        self.owed = 0
        self._on_message = on_message
        self._on_trouble = on_trouble
        self._now = now
        self._connection: Connection | None = None
        self._sid = 0
        self._inbox = b""
        self._heard_at = 0.0

    def __repr__(self) -> str:
        return f"<Pull {self.subject}: {self.owed} owed>"

    @property
    def is_silent(self) -> bool:
        """Whether requests wait at a server that says nothing any more."""
        return self.owed > 0 and self._now() - self._heard_at > SILENCE_S

    def begin(self, connection: Connection) -> None:
        """Subscribe anew; what was asked before is forgotten."""
        self.withdraw()
        self._connection = connection
        inbox = connection.new_inbox()
        self._inbox = inbox.encode()
        sid = 0

        def arrived(_: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
            if reply:
                if sid == self._sid and self.owed > 0:
                    self.owed -= 1
                self._heard_at = self._now()
                self._on_message(self, reply, data, headers)
            elif sid == self._sid:
                self._heard_at = self._now()
                self._status(headers)

        sid = connection.subscribe(inbox, arrived)
        self._sid = sid

    def request(self, count: int, max_bytes: int) -> None:
        """Ask for so many messages, and at most so many bytes."""
        if self._connection is None or count <= 0:
            return
        if not self.owed:
            self._heard_at = self._now()
        self.owed += count
        asked: dict[str, Any] = {
            "batch": count,
            "max_bytes": max_bytes,
            "expires": int(EXPIRES_S * SECOND),
            "idle_heartbeat": int(HEARTBEAT_S * SECOND),
        }
        payload = json.dumps(asked).encode()
        self._connection.write(b"PUB %b %b %d\r\n%b\r\n" % (self.subject.encode(), self._inbox, len(payload), payload))

    def withdraw(self) -> None:
        """Take the requests back. What is on its way still comes; messages that were not sent go to others."""
        self.owed = 0
        connection, self._connection = self._connection, None
        if connection is not None and self._sid and not connection.closed.done():
            connection.unsubscribe(self._sid)

    def lost(self) -> None:
        """The connection is gone, and with it what was asked."""
        self._connection = None
        self.owed = 0

    @property
    def is_asking(self) -> bool:
        """Whether requests can be made."""
        return self._connection is not None

    def _status(self, headers: bytes | None) -> None:
        code, text = status(headers)
        if code == HEARTBEAT:
            return
        lowered = text.lower()
        if code in (NO_MESSAGES, TIMEOUT) or (code == CONFLICT and any(end in lowered for end in _FINISHED)):
            pending = next((value for name, value in split(headers) if name == "Nats-Pending-Messages"), "")
            self.owed = max(0, self.owed - int(pending)) if pending.isdigit() else 0
            self._on_trouble(self, 0, text)
            return
        self.owed = 0
        if code not in (NO_RESPONDERS, CONFLICT, BAD_REQUEST):
            log.debug("a pull ended", extra={"subject": self.subject, "code": code, "cause": text})
        self._on_trouble(self, code or CONFLICT, text)
