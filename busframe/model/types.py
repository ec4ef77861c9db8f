"""Stable names of payload types: what ``Message.type`` says."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K", bound=type)

_IDS = "__busframe_types__"


def message_type(id: str, /, *aliases: str) -> Callable[[K], K]:
    """Give a payload class a name on the wire that outlives its name in the code.

    Args:
        id: what is sent as ``Message.type``.
        aliases: older names that are accepted, never sent.

    Returns:
        A decorator that returns the class as it was.
    """

    def name(kind: K) -> K:
        setattr(kind, _IDS, (id, *aliases))
        return kind

    return name


def type_ids(kind: type) -> tuple[str, ...]:
    """The names of a payload class: first the one that is sent, then those that are accepted as well.

    A subclass does not inherit them: it is another type.
    """
    ids: tuple[str, ...] | None = vars(kind).get(_IDS)
    return ids if ids is not None else (kind.__name__,)
