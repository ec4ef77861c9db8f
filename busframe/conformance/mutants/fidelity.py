"""What can be wrong with B."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import busframe.handling.outlet as outlet
from busframe.codecs import Codecs
from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.errors import MessageTooLarge
from busframe.logic.size import message_bytes
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.message import FrozenHeaders, Message
from busframe.model.settlement import RELEASE, DeadLetter, Settlement


class _Changes(MutantReceiver):
    """Gives out messages that are not quite what was published."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """What becomes of a message."""
        raise NotImplementedError

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As the other one, with every message changed."""
        return [
            replace(delivery, message=self.change(delivery.message, delivery))
            for delivery in await self.inner.receive(limit)
        ]


def _with_headers(message: Message, change: Callable[[str, str], tuple[str, str]]) -> Message:
    return replace(message, headers=FrozenHeaders(change(name, value) for name, value in message.headers.items()))


@mutant("an empty body becomes null", "B1", says="body was b'' and arrived as b'null'")
class FillsEmptyBodies(_Changes):
    """As a client that takes nothing for no value."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Never empty."""
        return replace(message, body=message.body or b"null")


@mutant("bodies are encoded again as text", "B2", says="body was b.* and arrived as b")
class TakesBodiesForText(_Changes):
    """What is no UTF-8 is replaced."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Through text and back."""
        return replace(message, body=message.body.decode("utf-8", "replace").encode())


@mutant("JSON is parsed and written again", "B2", says="body was b.* and arrived as b")
class WritesJsonAgain(_Changes):
    """Equal to a program, but not the same bytes."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Whatever parses."""
        with suppress(ValueError):
            return replace(message, body=json.dumps(json.loads(message.body)).encode())
        return message


@mutant("bodies are cut at 64 KiB", "B3", says="body was b.* and arrived as b")
class CutsBodies(_Changes):
    """As a column that is too short."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Without what is behind."""
        return replace(message, body=message.body[: 64 * 1024])


@mutant("the maximum itself is refused", "B3", says="was not confirmed: MessageTooLarge")
class RefusesTheMaximum(MutantTransport):
    """Off by one."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Less than the maximum is taken."""
        limit = self.capabilities.max_message_bytes or 0
        if all(message_bytes(out.message) < limit for out in outgoing):
            return await super().publish(outgoing, timeout_s=timeout_s)
        return [MessageTooLarge(limit, limit)] * len(outgoing)


@mutant("what is too large fails everything beside it", "B3", says="messages beside one that is too large ended as")
class FailsWithItsNeighbour(MutantTransport):
    """As one request for a whole batch."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """The first error is everybody's."""
        outcomes = await super().publish(outgoing, timeout_s=timeout_s)
        first = next((outcome for outcome in outcomes if outcome is not None), None)
        return [first] * len(outcomes)


@mutant("more than 50 headers do not travel", "B4", says="headers were .* and arrived as")
class LosesManyHeaders(_Changes):
    """As a broker with a limit of its own."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """The first 50."""
        return replace(message, headers=FrozenHeaders(list(message.headers.items())[:50]))


@mutant("quotes and blanks around a header's value are stripped", "B5", says="headers were .* and arrived as")
class StripsValues(_Changes):
    """As a parser of HTTP headers does."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Every value."""
        return _with_headers(message, lambda name, value: (name, value.strip("\"' ")))


@core_mutant(
    "a header that not every broker keeps is published all the same",
    "B4",
    "B5",
    "B6",
    says="InvalidHeader was expected for",
    of=outlet,
    attribute="check_message",
)
def checks_nothing(message: Message) -> None:
    """Whatever it says."""


@mutant("header names are written small", "B6", says="headers were .*Tenant.* and arrived as")
class LowersNames(_Changes):
    """As HTTP/2 does."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Every name."""
        return _with_headers(message, lambda name, value: (name.lower(), value))


@mutant("typed values become what Python prints", "B7", says="header (yes|no) came as '(True|False)'")
class PrintsValues(_Changes):
    """By str() in place of the canonical text."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Booleans at least."""
        return _with_headers(
            message, lambda name, value: (name, value.title() if value in ("true", "false") else value)
        )


@mutant("a broker's count of deliveries shows", "B8", says="headers was .* and arrived after a hand-back as")
class ShowsBrokerHeaders(_Changes):
    """From the second delivery on, as quorum queues do."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """One header more."""
        if delivery.deliveries < 2:
            return message
        return replace(message, headers=FrozenHeaders({**message.headers, "x-delivery-count": "1"}))


@mutant(
    "a retry loses what a broker has no property for", "B8", says="published_at was .* and arrived after a retry as"
)
class ForgetsAtRetry(_Changes):
    """As a copy that is made of less than the original."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """When it was published."""
        return replace(message, published_at=None) if delivery.carried else message


@mutant("a foreign message has another id each time", "B9", says="the ids of two foreign messages were")
class NamesForeignersAnew(_Changes):
    """Made up when it is received."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """What nobody said when it was published is foreign."""
        return message if message.published_at else replace(message, id=f"foreign-{id(delivery.receipt)}")


@mutant("a header of several values breaks its message", "B9", says="not within .*three foreign messages are handled")
class BreaksAtLists(MutantReceiver):
    """So that it is never delivered."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Without those that it cannot read."""
        while True:
            deliveries = await self.inner.receive(limit)
            if read := [delivery for delivery in deliveries if "list" not in delivery.message.headers]:
                return read


@mutant("what was not said is empty text", "B9", says="type of a foreign message was ''")
class FillsInEmptyText(_Changes):
    """As protobuf has it."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Of foreign messages."""
        return message if message.published_at else replace(message, type=message.type or "")


@mutant("what should be dead-lettered goes back", "B10", says="it goes in circles|not within .* dead letters")
class RequeuesLetters(MutantReceiver):
    """So it comes again, for ever."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Released."""
        return await self.inner.settle(
            [(delivery, RELEASE if isinstance(what, DeadLetter) else what) for delivery, what in settled]
        )


@mutant("headers can be changed by who receives them", "B11", says="the attempts of .* saw")
class GivesOutItsHeaders(_Changes):
    """A plain dict, which is kept for the retry."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """The same to a type checker."""
        return replace(message, headers=dict(message.headers))


_decode = Codecs.decode
_decoded: dict[tuple[bytes, str], Any] = {}


@core_mutant("one body is decoded once", "B11", says="the attempts of .* saw", of=Codecs, attribute="decode")
def decodes_once(self: Codecs, body: bytes, content_type: str | None, kind: Any) -> Any:
    """So handlers share an object."""
    key = body, str(kind)
    if key not in _decoded:
        _decoded[key] = _decode(self, body, content_type, kind)
    return _decoded[key]


@mutant("times are whole seconds", "B12", says="published_at was .* and arrived as")
class RoundsTimes(_Changes):
    """As AMQP's own timestamp."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """Without microseconds."""
        at = message.published_at
        return replace(message, published_at=at and at.replace(microsecond=0))


@mutant("long keys are cut", "B12", says="key was .* and arrived as")
class CutsKeys(_Changes):
    """At 64 characters."""

    def change(self, message: Message, delivery: Delivery) -> Message:
        """The key alone."""
        return replace(message, key=message.key and message.key[:64])


@mutant("bodies travel in an envelope of our own", "B13", says="ours was read natively from .* as b'bf1:")
class WrapsBodies(MutantTransport):
    """Which is taken off at the other end, and which no other program knows."""

    class receivers(_Changes):
        """Takes it off."""

        def change(self, message: Message, delivery: Delivery) -> Message:
            """Where there is one."""
            return replace(message, body=message.body.removeprefix(b"bf1:"))

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Puts it on."""
        return await super().publish(
            [replace(out, message=replace(out.message, body=b"bf1:" + out.message.body)) for out in outgoing],
            timeout_s=timeout_s,
        )
