"""Functions around a handler: ``async def (ctx, call_next)``; one file each."""

from busframe.middleware.logging import Logging
from busframe.middleware.timeout import Timeout

__all__ = ["Logging", "Timeout"]
