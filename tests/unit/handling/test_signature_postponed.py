from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from busframe import Context, Message, Queue, Router, SyncContext
from busframe.errors import HandlerSignatureError


class Lesson(BaseModel):
    room: int


lessons = Queue("lessons", Lesson)
router = Router()


@router.handle(lessons)
async def teach(lesson: Lesson, ctx: Context, message: Message | None = None) -> None:
    """A handler of a module with postponed annotations."""


@router.handle(lessons.dead_letters)
def report(message: Annotated[Message, "x"], *, ctx: SyncContext) -> dict[str, Any]:
    """Another one, that is no coroutine."""
    return {}


def test_postponed_annotations_are_resolved() -> None:
    """With ``from __future__ import annotations`` handlers of a module are read as without."""
    first, second = router._handlers()
    assert first.signature.types == {"Lesson": Lesson}
    assert first.signature.positional == ("context", "message")
    assert second.signature.body is Message
    assert second.signature.named == {"ctx": "context"}


def test_a_class_of_a_function_cannot_be_resolved_later() -> None:
    """A postponed annotation that names a local class is refused, and the error says where it belongs."""

    class Local(BaseModel): ...

    with pytest.raises(HandlerSignatureError, match="'Local' is not defined; define or import it at the top"):

        @router.handle(Queue("locals", Local))
        async def handler(body: Local) -> None: ...
