"""Cutting a stream of items into batches that a broker takes, without losing, doubling or reordering any."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], *, size_of: Callable[[T], int], max_items: int, max_bytes: int) -> Iterator[list[T]]:
    """Batches of at most so many items and bytes, lazily: at most one item more is read than is given out.

    An item that is larger than ``max_bytes`` by itself makes a batch of its own: whether it fits is not decided here.

    Args:
        items: in order.
        size_of: the size of one, in bytes.
        max_items: in one batch, ≥ 1.
        max_bytes: in one batch.
    """
    if max_items < 1:
        raise ValueError(f"max_items must be 1 or more, not {max_items}")
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) >= max_items or total + size > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
        if len(batch) >= max_items:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
