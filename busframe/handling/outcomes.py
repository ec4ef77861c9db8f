"""What a handler raises to steer its message.

None is a ``BusframeError``: an ``except BusframeError`` in a handler leaves them alone. They can be pickled, so that
work in another process may raise them too.
"""

from math import isfinite

from busframe.logic.retry import AsksRetry


def _seconds(delay_s: float) -> float:
    if not isfinite(delay_s):
        raise ValueError(f"delay_s must be a number of seconds, not {delay_s}: a message may not wait for ever")
    return max(0.0, delay_s)


class RetryAfter(AsksRetry):
    """Try again after a time of the handler's choosing. Counts as an attempt, within the policy's ``max_attempts``.

    Args:
        delay_s: seconds until the next attempt.
        reason: for logs and the failure record.
    """

    def __init__(self, delay_s: float, reason: str = "") -> None:
        super().__init__(delay_s, reason)
        self.delay_s = _seconds(delay_s)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"retry after {self.delay_s} s"


class PauseSource(Exception):
    """Something outside is down: this delivery waits in its lane and its source is not fetched. Counts no attempt.

    Args:
        delay_s: seconds until the source goes on.
        reason: for logs and health.
    """

    def __init__(self, delay_s: float, reason: str = "") -> None:
        super().__init__(delay_s, reason)
        self.delay_s = _seconds(delay_s)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"pause for {self.delay_s} s"


class Reject(Exception):
    """This message can never be handled: dead-letter it now, as ``rejected``.

    Args:
        reason: why, for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "rejected"


class Discard(Exception):
    """Nothing to do: acknowledge it, and count it as discarded.

    Args:
        reason: why, for logs.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "discarded"
