"""Plain functions in threads."""

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from busframe.errors import HandlerTimedOut


class Threads:
    """A pool of one source's threads: as many as handlers may run at once. Context variables are carried over."""

    def __init__(self, size: int, name: str) -> None:
        self._name = f"busframe-{name}"
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix=self._name)
        self.overdue: dict[object, str] = {}
        """The handlers that outlived their time-out and still run: a thread cannot be stopped from outside."""
        self.running = 0

    async def run(
        self, handler: str, timeout_s: float | None, fn: Callable[..., Any], /, *args: Any, **named: Any
    ) -> Any:
        """Run a function in a thread.

        Raises:
            HandlerTimedOut: it ran longer than ``timeout_s``; raised when it has returned, because until then its
                message is still being worked on.

        If cancelled: the thread goes on, and its result is lost.
        """
        context = contextvars.copy_context()
        started = time.monotonic()
        self.running += 1

        def call() -> Any:
            try:
                result = context.run(fn, *args, **named)
            except StopIteration as error:  # a future cannot hold one: it would never be done
                raise RuntimeError("the handler raised StopIteration") from error
            if inspect.iscoroutine(result):  # a lambda around an async function: nothing has been handled
                result.close()
                raise TypeError(f"{handler} is a plain function that returned a coroutine: make it async, and await")
            return result

        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        work.add_done_callback(self._ended)
        if timeout_s is not None:
            done, _ = await asyncio.wait((work,), timeout=timeout_s)
            if not done:
                self.overdue[work] = f"{handler} runs longer than its {timeout_s} s"
                try:
                    await asyncio.wait((work,))
                finally:
                    if work.done():
                        self.overdue.pop(work, None)
                error = None if work.cancelled() else work.exception()
                raise HandlerTimedOut(
                    f"{handler} ran for {time.monotonic() - started:.1f} s, longer than {timeout_s} s"
                ) from error
        return await asyncio.shield(work)

    def _ended(self, work: "asyncio.Future[Any]") -> None:
        self.running -= 1
        self.overdue.pop(work, None)
        if not work.cancelled():
            work.exception()  # of one that nobody waits for any more: seen, so that asyncio does not complain

    def resize(self, size: int) -> None:
        """Another number of threads for what begins from now on; what runs goes on in its thread."""
        before, self._pool = self._pool, ThreadPoolExecutor(max_workers=size, thread_name_prefix=self._name)
        before.shutdown(wait=False)

    def close(self) -> None:
        """Take no more; threads that still run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
