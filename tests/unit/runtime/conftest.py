"""Virtual time, one broker, and a look behind each test: no task is left, and asyncio had nothing to complain of."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from tests.support.bench import Bench
from tests.support.virtual_loop import VirtualLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs in virtual time."""
    return {"virtual": VirtualLoop}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A broker with faults; afterwards everything that its buses started is gone."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(str(context)))
    bench = Bench()
    yield bench
    left = [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task() and "busframe" in task.get_name()
    ]
    assert not left
    assert not complaints
    assert not bench.faults.receivers
