"""Programs that checks start as processes of their own, so that they can be killed.

``python -m busframe.conformance.programs publish QUEUE COUNT ID…`` publishes a message under each id, all at once,
writes each id when its publish has returned, and kills itself the moment that so many have.
"""

import asyncio
import os
import signal
import sys

from busframe.bus import Bus
from busframe.conformance.check import Violation
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import PREFIX, World
from busframe.model.destination import Queue

PYTHON = [sys.executable, "-m", "busframe.conformance.programs"]
"""How they are started."""


async def run_killed(world: World, *arguments: str, within_s: float = 30.0) -> list[str]:
    """Run a program that ends by killing itself, and return the lines that it wrote.

    The broker's URL is given in the environment: command lines are for everybody to see.
    """
    if world.harness.url is None:
        raise NotRunnable(f"{world.harness.name} lives in this process, so no other can be killed while it uses it")
    process = await asyncio.create_subprocess_exec(
        *PYTHON,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "BUSFRAME_URL": world.harness.url},
    )
    try:
        async with asyncio.timeout(within_s * world.harness.patience):
            out, err = await process.communicate()
    except TimeoutError:
        raise Violation(f"the program {arguments[0]} did not end within {within_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != -signal.SIGKILL:
        raise Violation(f"the program {arguments[0]} ended with {process.returncode}:\n{err.decode()[-2000:]}")
    return out.decode().split()


async def publish(queue: str, count: int, ids: list[str]) -> None:
    """See the module."""
    left = count

    async def one(bus: Bus, id: str) -> None:
        nonlocal left
        await bus.publish(Queue(queue), b"x", id=id)
        os.write(1, f"{id}\n".encode())
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    async with Bus(config={"prefix": PREFIX}) as bus:
        await asyncio.gather(*(one(bus, id) for id in ids))


if __name__ == "__main__":
    _, _, name, number, *rest = sys.argv
    asyncio.run(publish(name, int(number), rest))
