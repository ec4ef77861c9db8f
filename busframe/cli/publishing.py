"""What is published, and to where: from words on the command line to a destination and payloads."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from busframe.errors import ConfigurationError
from busframe.model.destination import DeadLetters, Destination, Queue, Subscription, Topic
from busframe.model.message import Message
from busframe.model.types import type_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from busframe.bus import Bus


class WrongBody(ConfigurationError):
    """A body that is not what the destination carries; nothing was sent."""


def destinations_of(bus: Bus) -> list[Destination[Any]]:
    """Everything that an application can publish to, each once: what it uses and what it handles."""
    found: dict[Destination[Any], None] = {}
    for item in (*bus.uses, *(handler.source for handler in bus.handlers)):
        address: object = item.of if isinstance(item, DeadLetters) else item
        address = address.topic if isinstance(address, Subscription) else address
        if isinstance(address, Destination):
            found.setdefault(address)
    return list(found)


def find_destination(bus: Bus, name: str, app: str) -> Destination[Any]:
    """The destination of this name, as ``emails`` or ``queue:emails``.

    Raises:
        ConfigurationError: the application has none; names the close ones.
    """
    known = destinations_of(bus)
    kind, _, plain = name.partition(":") if name.startswith(("queue:", "topic:")) else ("", "", name)
    for destination in known:
        if destination.name == plain and kind in ("", type(destination).__name__.lower()):
            return destination
    if not known:
        raise ConfigurationError(f"{app} publishes to nothing: name its destinations in Bus(uses=[…])")
    names = [destination.name for destination in known]
    if "/" in plain and plain.partition("/")[0] in names:
        raise ConfigurationError(f"{name!r} is a subscription: publish to its topic, {plain.partition('/')[0]!r}")
    close = get_close_matches(plain, names, n=2)
    hint = f"did you mean {' or '.join(close)}? It" if close else "it"
    raise ConfigurationError(f"{app} has no destination {name!r}; {hint} has {', '.join(names)}")


def ad_hoc_destination(name: str) -> Destination[Any]:
    """A destination by its kind and name alone, ``queue:emails`` or ``topic:orders``.

    Raises:
        ConfigurationError: it does not say its kind.
        InvalidName: no broker would take the name.
    """
    kind, colon, plain = name.partition(":")
    if not colon or kind not in ("queue", "topic"):
        raise ConfigurationError(
            f"with a URL nobody knows whether {name!r} is a queue or a topic: say queue:{name} or topic:{name}"
        )
    return Queue(plain) if kind == "queue" else Topic(plain)


def payload_maker(destination: Destination[Any], type_name: str | None) -> Callable[[bytes], object]:
    """How a body on the command line becomes a payload: validated where the destination declares types.

    Args:
        destination: to what.
        type_name: which of its types; of a destination without types, what is sent as the message's type.

    Returns:
        A function that raises ``WrongBody``.

    Raises:
        ConfigurationError: the destination has several types and none of them was named.
    """
    if not destination.types:
        return lambda body: _raw(body, type_name)
    kind = _kind(destination, type_name)
    if kind is bytes:
        return lambda body: body
    if kind is str:
        return lambda body: _decoded(body)
    if kind is Message:
        return lambda body: _raw(body, type_name)
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def validate(body: bytes) -> object:
        try:
            return adapter.validate_json(body)
        except ValidationError as failed:
            raise WrongBody([_sentence(kind.__name__, error) for error in failed.errors(include_url=False)]) from failed

    return validate


def _kind(destination: Destination[Any], type_name: str | None) -> type:
    by_name = {name: kind for kind in reversed(destination.types) for name in (kind.__name__, *type_ids(kind))}
    ids: Sequence[str] = [type_ids(kind)[0] for kind in destination.types]
    if type_name is None:
        if len(destination.types) == 1:
            return destination.types[0]
        raise ConfigurationError(f"{destination} carries several types: say --type {' or --type '.join(ids)}")
    if type_name in by_name:
        return by_name[type_name]
    close = get_close_matches(type_name, ids, n=1)
    hint = f"did you mean {close[0]}? It" if close else "it"
    raise ConfigurationError(f"{destination} carries no type {type_name!r}; {hint} carries {', '.join(ids)}")


def _raw(body: bytes, type_name: str | None) -> Message:
    """A body as it is; its content type says what it looks like."""
    try:
        json.loads(body)
    except ValueError:
        try:
            body.decode()
        except UnicodeDecodeError:
            return Message(body, "", type_name, "application/octet-stream")
        return Message(body, "", type_name, "text/plain; charset=utf-8")
    return Message(body, "", type_name, "application/json")


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as failed:
        raise WrongBody(f"the body is not UTF-8 text: {failed}") from failed


def _sentence(kind: str, error: Any) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']}"
    where = ".".join(map(str, error["loc"]))
    return f"the body is no {kind}: {f'{where}: ' if where else ''}{error['msg'][0].lower()}{error['msg'][1:]}"
