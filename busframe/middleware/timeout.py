"""A bound on how long a handler runs."""

import asyncio

from busframe.errors import HandlerTimedOut
from busframe.handling.context import Context
from busframe.handling.handler import Next


class Timeout:
    """Cancel an async handler that runs too long: a failure of its message, ``HandlerTimedOut``.

    ``timeout_s`` of ``handle`` is this one, inside all other middleware. The handler's own ``TimeoutError`` stays what
    it is.

    Args:
        timeout_s: how long what is inside may run, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    async def __call__(self, ctx: Context, call_next: Next, /) -> object:
        """Run what is inside; raises ``HandlerTimedOut`` where that takes too long."""
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                return await call_next()
        except TimeoutError as error:
            if limit.expired():
                raise HandlerTimedOut(f"{ctx.handler} ran longer than {self.timeout_s} s") from error
            raise
