"""Why a publish was refused, where the server's answer does not say it: asked only then."""

from typing import Any

from busframe.errors import (
    Backpressure,
    ClosedError,
    DestinationNotFound,
    PublishError,
    PublishFailed,
    TransportError,
    Unsupported,
)
from busframe.model.destination import Address, Subscription, Topic
from busframe_nats.answers import JetStream
from busframe_nats.entry import Entry
from busframe_nats.topology import SCHEDULES, Names, has_schedules


class Explanations:
    """Asks the server.

    Args:
        jetstream: its interface.
        names: of streams and consumers.
    """

    def __init__(self, jetstream: JetStream, names: Names) -> None:
        self._jetstream = jetstream
        self._names = names

    async def of_no_stream(self, entry: Entry) -> Exception:
        """No stream has the subject: is it not there, or only not ready?"""
        id = entry.message_id
        try:
            stream = await self._jetstream.stream(self._names.stream(entry.to))
        except (TransportError, ClosedError) as error:
            failed: PublishError = PublishFailed(f"{entry.to}: no stream answered: {error}", message_id=id)
            failed.__cause__ = error
            return failed
        subjects = (stream or {"config": {}})["config"].get("subjects") or ()
        root = self._names.to(entry.to).rpartition(".")[0] if stream else ""
        if stream is None or not any(subject.startswith(root) for subject in subjects):
            return DestinationNotFound(str(entry.to), message_id=id)
        if entry.delayed and not has_schedules(stream["config"]):
            return no_schedules(entry.to)
        return PublishFailed(f"{entry.to}: its stream has no leader for now", message_id=id)

    async def of_a_full_stream(self, entry: Entry, text: str) -> Exception:
        """A stream takes no more: say which consumer holds the most of it."""
        holder = ""
        stream = self._names.stream(entry.to)
        try:
            listed = (await self._jetstream.ask(f"CONSUMER.LIST.{stream}")).get("consumers") or []
            held = [(int(each["num_pending"]) + int(each["num_ack_pending"]), str(each["name"])) for each in listed]
            if held and max(held)[0]:
                most, name = max(held)
                holder = f"; {name.replace('=', '.')!r} holds the most of it, {most} messages"
        except (TransportError, ClosedError):
            pass
        return Backpressure(f"{entry.to} is full: {text}{holder}", message_id=entry.message_id)

    async def of_missing_interest(self, to: Topic[Any] | Subscription[Any], delayed: bool) -> Exception | None:
        """Whether there is a consumer for whom a topic's stream keeps a message; without one it would drop it.

        And confirm it all the same. So a copy for a subscription, or what is delayed, is sent only when there is one.
        """
        stream = self._names.stream(to)
        try:
            if isinstance(to, Subscription):
                name = self._names.consumer(to)
                both = [await self._jetstream.consumer(stream, each) for each in (name, f"{name}--p0")]
                if both == [None, None]:
                    return DestinationNotFound(str(to))
            if delayed and await self._jetstream.consumer(stream, SCHEDULES) is None:
                info = await self._jetstream.stream(stream)
                if info is None:
                    return DestinationNotFound(str(to))
                if not has_schedules(info["config"]):
                    return no_schedules(to)
                what = f"{to}: its stream keeps nothing delayed, since its consumer {SCHEDULES} was deleted: declare it"
                return PublishFailed(what)  # transient: somebody may be declaring it
        except (TransportError, ClosedError) as error:
            failed = PublishFailed(f"{to}: it is not known whether it exists; nothing was sent: {error}")
            failed.__cause__ = error
            return failed
        return None


def no_schedules(to: Address) -> Unsupported:
    """The stream of a destination cannot delay."""
    return Unsupported(f"{to}: its stream cannot delay messages: it has a limit, or was made by a server before 2.12")
