"""Reads messages several times as fast as nats-py's parser, which is asked for everything else.

That one matches each operation with one regular expression after the other, and copies and awaits for each message.
"""

import logging
from collections.abc import Callable, Mapping

from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

log = logging.getLogger(__name__)

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""(subject, reply, payload, headers as on the wire)"""


class MessageParser(Parser):
    """Gives messages of subscriptions that have a function to that function, at once.

    Args:
        client: nats-py's, for what is not taken here.
        handlers: the functions, by the number of their subscription.
    """

    def __init__(self, client: object, handlers: Mapping[bytes, Handler]) -> None:
        super().__init__(client)
        self._handlers = handlers

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read."""
        if len(data) < self._missing:  # of one large message: joined when it is complete, and not at each part
            self.buf.extend(data)
            self._missing -= len(data)
            return
        while data:
            if self.state != AWAITING_CONTROL_LINE:  # nats-py's parser waits for the payload of somebody else's message
                left = self.needed + 2 - len(self.buf)
                await super().parse(data[:left])
                data = data[left:]
                continue
            if self.buf:
                data = bytes(self.buf) + data
                self.buf.clear()
            taken, self._missing = self._take(data)
            data = data[taken:]
            end = data.find(b"\r\n") + 2
            if self._missing or end < 2:
                self.buf.extend(data)
                return
            await super().parse(data[:end])
            data = data[end:]

    def _take(self, data: bytes) -> tuple[int, int]:
        """Take the messages that are ours and complete.

        Returns:
            Where something else begins, and how much is missing where that is a message of ours.
        """
        handlers, find, length, at = self._handlers, data.find, len(data), 0
        while True:
            end = find(b"\r\n", at)
            if end < 0:
                return at, 0
            parts = data[at:end].split(b" ")
            begin = body = end + 2
            if parts[0] == b"HMSG" and len(parts) > 4:
                body += int(parts[-2])
                reply = parts[3] if len(parts) == 6 else b""
            elif parts[0] == b"MSG" and len(parts) > 3:
                reply = parts[3] if len(parts) == 5 else b""
            else:
                return at, 0
            handler = handlers.get(parts[2])
            if handler is None:
                return at, 0
            stop = begin + int(parts[-1])
            if stop + 2 > length:
                return at, stop + 2 - length
            try:
                handler(parts[1], reply, data[body:stop], data[begin:body] or None)
            except Exception:  # or nats-py would read no more
                log.exception("a message was not taken")
            at = stop + 2
