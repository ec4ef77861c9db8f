"""A hundred publishers in one process: each insists until its message is confirmed. SIGTERM ends them, exit code 0.

They write down what they were told of each message: ``tried``, ``unknown`` (it may be there or not), ``confirmed``.
"""

import asyncio
import itertools
import os
import signal
import sys

from busframe.errors import PublishFailed, PublishOutcomeUnknown
from tests.faults.app import Job, bus, jobs, write

PUBLISHERS = 100
PER_S = float(os.environ.get("BUSFRAME_TEST_PUBLISH_PER_S", "500"))


async def insist(n: int) -> None:
    """Publish one job, again under the same id until it is confirmed."""
    write(f"tried {n}")
    while True:
        try:
            await bus.publish(jobs, Job(n=n), id=str(n), timeout_s=10)
        except PublishOutcomeUnknown:
            write(f"unknown {n}")
        except PublishFailed as error:  # it is surely not there
            if not error.transient:
                raise
        else:
            write(f"confirmed {n}")
            return
        await asyncio.sleep(0.05)


async def main() -> None:
    """Publish until told to end; what was begun is confirmed."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    numbers = itertools.count()

    async def publisher() -> None:
        while not over.is_set():
            await insist(next(numbers))
            await asyncio.sleep(PUBLISHERS / PER_S)

    async with bus:
        async with asyncio.TaskGroup() as group:
            for _ in range(PUBLISHERS):
                group.create_task(publisher())


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
