"""Questions to the server and their answers: one inbox for all of a connection, a number for each question."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from busframe.errors import AccessDenied, TransportError
from busframe_nats.client import Connection, Lost
from busframe_nats.link import Link
from busframe_nats.mapping import status
from busframe_nats.settings import Settings

Answer = Callable[[bytes, bytes | None], None]
"""(payload, headers as on the wire)"""

NO_RESPONDERS = 503
STREAM_NOT_FOUND, CONSUMER_NOT_FOUND = 10059, 10014
NO_MESSAGE = 10037
REQUEST_TIMEOUT_S = 5.0
ANYTHING = ">"


class Refused(TransportError):
    """The server refused a request.

    Args:
        code: as in HTTP.
        err_code: which of JetStream's errors it is; 0: another one.
        text: the server's.
    """

    def __init__(self, code: int, err_code: int, text: str) -> None:
        super().__init__(f"the server refused: {text} ({err_code or code})", transient=code >= 500)
        self.code = code
        self.err_code = err_code
        self.text = text


class Answers:
    """Whoever asks gives a function for the answer; it is called once, or never when the connection is lost."""

    def __init__(self, link: Link) -> None:
        self._waiting: dict[bytes, Answer] = {}
        self._inbox = b""
        self._cut = 0
        self._number = 0
        self.deaf = ""
        """Why answers cannot come: what the server says of our inbox."""
        self.denied: list[Callable[[str, str], None]] = []
        """Called with (subject in small letters, text) when the server says that a publish was not allowed, and with
        ``ANYTHING`` when it lets no answer through."""
        link.on_up.append(self._begin)
        link.on_down.append(lambda _: self._waiting.clear())

    def _begin(self, connection: Connection) -> None:
        self._waiting.clear()
        self.deaf = ""
        inbox = connection.new_inbox()
        self._inbox = f"{inbox}.".encode()
        self._cut = len(self._inbox)
        connection.subscribe(f"{inbox}.*", self._arrived)
        connection.on_denied = self._denied

    def expect(self, answer: Answer) -> bytes:
        """Take a number for a question. Returns the subject that its answer comes to."""
        self._number += 1
        number = b"%d" % self._number
        self._waiting[number] = answer
        return self._inbox + number

    def forget(self, reply: bytes) -> None:
        """Nobody waits for that answer any more."""
        self._waiting.pop(reply[self._cut :], None)

    def _arrived(self, subject: bytes, _: bytes, data: bytes, headers: bytes | None) -> None:
        answer = self._waiting.pop(subject[self._cut :], None)
        if answer is not None:
            answer(data, headers)

    def _denied(self, what: str, subject: str, text: str) -> None:
        if what == "publish":
            for told in list(self.denied):
                told(subject, text)
        elif self._inbox.decode().lower().startswith(subject.rstrip("*>")):
            self.deaf = text
            for told in list(self.denied):
                told(ANYTHING, text)


class JetStream:
    """The server's interface for streams and consumers.

    Args:
        link: the connection.
        answers: of the same.
        settings: the domain.
    """

    def __init__(self, link: Link, answers: Answers, settings: Settings) -> None:
        self._link = link
        self._answers = answers
        self.prefix = f"$JS.{settings.js_domain}.API" if settings.js_domain else "$JS.API"

    async def ask(
        self, subject: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            Refused: by the server.
            AccessDenied: these credentials may not ask that.
            TransportError: no answer came, or the connection was lost.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        data, headers = await self.request(f"{self.prefix}.{subject}", payload, timeout_s=timeout_s)
        code, text = status(headers)
        if code:
            text = "JetStream is not there, or not ready" if code == NO_RESPONDERS else text
            raise Refused(code, 0, text)
        answer = parse_json(data)
        error = answer.get("error")
        if error is not None:
            raise Refused(int(error.get("code", 500)), int(error.get("err_code", 0)), str(error.get("description", "")))
        return answer

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> tuple[bytes, bytes | None]:
        """Send something and wait for what comes back.

        Raises:
            AccessDenied: these credentials may not send that.
            TransportError: no answer came, or the connection was lost.
        """
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._link.wait_up()
        except TimeoutError as error:
            raise self._link.error from error
        if self._answers.deaf:
            raise AccessDenied(f"answers cannot come, see inbox_prefix: {self._answers.deaf}")
        waiting: asyncio.Future[tuple[bytes, bytes | None]] = asyncio.get_running_loop().create_future()

        def answered(data: bytes, headers: bytes | None) -> None:
            if not waiting.done():
                waiting.set_result((data, headers))

        def denied(denied_subject: str, text: str) -> None:
            if waiting.done():
                return
            if denied_subject == subject.lower():
                waiting.set_exception(AccessDenied(f"these credentials may not do that: {text}"))
            elif denied_subject == ANYTHING:
                waiting.set_exception(AccessDenied(f"answers cannot come, see inbox_prefix: {text}"))

        reply = self._answers.expect(answered)
        self._answers.denied.append(denied)
        try:
            connection.write(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(payload), payload))
            either: set[asyncio.Future[Any]] = {waiting, connection.closed}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if connection.closed.done():
                raise Lost(f"the connection was lost before an answer came: {connection.closed.result()}")
            raise TransportError(f"the server did not answer {subject} within {timeout_s:g} s")
        finally:
            self._answers.forget(reply)
            with suppress(ValueError):
                self._answers.denied.remove(denied)

    # ------------------------------------------------------------------------------------------ what is there

    async def stream(self, name: str) -> dict[str, Any] | None:
        """What the server says of a stream; None: there is none."""
        return await self._found(f"STREAM.INFO.{name}", STREAM_NOT_FOUND)

    async def consumer(self, stream: str, name: str) -> dict[str, Any] | None:
        """What the server says of a consumer; None: there is none."""
        return await self._found(f"CONSUMER.INFO.{stream}.{name}", CONSUMER_NOT_FOUND, STREAM_NOT_FOUND)

    async def _found(self, subject: str, *missing: int) -> dict[str, Any] | None:
        while True:
            try:
                return await self.ask(subject)
            except Lost:  # a look can be taken again, over the next connection
                continue
            except Refused as error:
                if error.err_code in missing:
                    return None
                raise


def parse_json(data: bytes) -> dict[str, Any]:
    """An answer of the server; empty where it is none."""
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
