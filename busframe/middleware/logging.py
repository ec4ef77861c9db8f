"""A line for each handled message."""

import logging
import time

from busframe.handling.context import Context
from busframe.handling.handler import Next


class Logging:
    """Log what each handler did and how long it took. Bodies stay out of the log.

    Args:
        logger: where to; default: ``busframe.handler``.
        level: of the line of a success; a failure is logged by the worker, which knows what becomes of it.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logger or logging.getLogger("busframe.handler")
        self._level = level

    async def __call__(self, ctx: Context, call_next: Next, /) -> object:
        """Run what is inside, and log how it went."""
        started = time.perf_counter()
        outcome = "failed"
        try:
            result = await call_next()
            outcome = "handled"
            return result
        finally:
            self._logger.log(
                self._level if outcome == "handled" else logging.DEBUG,
                "%s %s by %s in %.1f ms",
                outcome,
                ctx.source,
                ctx.handler,
                (time.perf_counter() - started) * 1000,
                extra={
                    "source": str(ctx.source),
                    "handler": ctx.handler,
                    "message_id": ctx.message.id,
                    "message_type": ctx.message.type,
                    "attempt": ctx.attempt,
                    "outcome": outcome,
                },
            )
