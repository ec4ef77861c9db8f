"""Looking at dead letters, and removing some, by their place in the stream: a look takes nothing and counts nothing."""

import asyncio
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from busframe.errors import DestinationNotFound, TransportError
from busframe.logic import wire
from busframe.logic.dead_letter import read_dead_letter
from busframe.model.destination import DeadLetters
from busframe.model.entity import Stored
from busframe_nats.answers import NO_MESSAGE, STREAM_NOT_FOUND, JetStream, Refused
from busframe_nats.mapping import decode
from busframe_nats.topology import Names

AT_ONCE = 32


class Letters:
    """Works on the dead letters of one server.

    Args:
        jetstream: the server's interface.
        names: of streams.
    """

    def __init__(self, jetstream: JetStream, names: Names) -> None:
        self._jetstream = jetstream
        self._names = names

    async def browse(self, source: DeadLetters, after: str, limit: int) -> Sequence[Stored]:
        """See ``Transport.browse``.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: ``after`` is no position.
        """
        if after and not _is_position(after):
            raise TransportError(f"{after!r} is no position in {source}: use one that browse returned", transient=False)
        stream = self._names.stream(source)
        pattern = f"{self._names.to(source)}.>"
        found: list[Stored] = []
        seq = int(after) + 1 if after else 1
        if await self._jetstream.stream(stream) is None:
            raise DestinationNotFound(str(source))
        while len(found) < limit:
            answer = await self._get(source, stream, {"seq": seq, "next_by_subj": pattern})
            if answer is None:
                break
            message = answer["message"]
            found.append(_stored(stream, message))
            seq = int(message["seq"]) + 1
        return found

    async def remove(self, source: DeadLetters, positions: Sequence[str]) -> int:
        """See ``Transport.remove``."""
        stream = self._names.stream(source)
        slots = asyncio.Semaphore(AT_ONCE)

        async def remove(seq: int) -> bool:
            async with slots:
                try:
                    answer = await self._jetstream.ask(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})
                except Refused as error:
                    if error.err_code == STREAM_NOT_FOUND:
                        raise DestinationNotFound(str(source)) from error
                    if error.transient and "no message found" not in error.text:
                        raise
                    return False
                return bool(answer.get("success"))

        wanted = {int(position) for position in positions if _is_position(position)}
        return sum(await asyncio.gather(*map(remove, sorted(wanted))))

    async def purge(self, source: DeadLetters) -> int:
        """See ``Transport.purge``."""
        stream = self._names.stream(source)
        try:
            answer = await self._jetstream.ask(f"STREAM.PURGE.{stream}", {"filter": f"{self._names.to(source)}.>"})
        except Refused as error:
            if error.err_code == STREAM_NOT_FOUND:
                raise DestinationNotFound(str(source)) from error
            raise
        return int(answer.get("purged", 0))

    async def _get(self, source: DeadLetters, stream: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return await self._jetstream.ask(f"STREAM.MSG.GET.{stream}", asked)
        except Refused as error:
            if error.err_code == STREAM_NOT_FOUND:
                raise DestinationNotFound(str(source)) from error
            if error.err_code == NO_MESSAGE or error.code == 404:
                return None
            raise


def _stored(stream: str, message: dict[str, Any]) -> Stored:
    seq = int(message["seq"])
    headers = b64decode(message.get("hdrs") or "")
    found, carried = decode(headers, b64decode(message.get("data") or ""), stream, seq)
    found = replace(found, dead=read_dead_letter(carried))
    return Stored(str(seq), found, wire.parse_time(message.get("time")))


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 19
