"""The outcomes of one publish."""

import asyncio

import pytest

from busframe.errors import DestinationNotFound, PublishError, PublishFailed, Unsupported
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue
from busframe.model.message import Message
from busframe.spi.batch import Batch, failed_alike

OUTGOING = Outgoing(Queue("emails"), Message(b"", "2"))


async def test_it_is_done_when_all_outcomes_are_known() -> None:
    """In whatever order they come; they stand in the order of the messages."""
    loop = asyncio.get_running_loop()
    batch: Batch[str] = Batch(3, loop)
    assert batch.began <= loop.time()
    failed = PublishFailed("no")
    for index, outcome in ((2, None), (1, failed)):
        batch.finish(index, outcome)
        assert not batch.done.done()
    assert batch.left == 1
    batch.finish(0, None)
    await batch.done
    assert list(batch.outcomes()) == [None, failed, None]


async def test_all_are_confirmed() -> None:
    """Usually."""
    batch: Batch[str] = Batch(2, asyncio.get_running_loop())
    batch.finish(0, None)
    batch.finish(1, None)
    assert list(batch.outcomes()) == [None, None]


async def test_nobody_may_wait_any_more() -> None:
    """Who waited was cancelled, and the last outcome comes all the same."""
    batch: Batch[str] = Batch(1, asyncio.get_running_loop())
    batch.done.cancel()
    batch.finish(0, None)
    assert batch.left == 0


@pytest.mark.parametrize(
    "error",
    [
        PublishFailed("no", message_id="1", transient=False),
        PublishFailed("no", message_id="1"),
        DestinationNotFound("physical--name", message_id="1"),
        Unsupported("never"),
    ],
    ids=["refused", "transient", "missing", "unsupported"],
)
def test_a_failure_that_several_share(error: Exception) -> None:
    """Each gets its own, which names its message and destination, and says why."""
    error.__cause__ = cause = OSError()
    own = failed_alike(OUTGOING, error)
    assert own is not error
    assert type(own) is type(error)
    assert own.__cause__ is cause
    if isinstance(own, PublishError):
        assert own.message_id == "2"
    if isinstance(own, PublishFailed):
        assert isinstance(error, PublishFailed)
        assert (own.what, own.transient) == (error.what, error.transient)
    if isinstance(own, DestinationNotFound):
        assert own.destination == "emails"
    if isinstance(own, Unsupported):
        assert str(own) == "never"
