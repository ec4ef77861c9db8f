"""What a handler raises to steer its message.

None is a ``BusframeError``: an ``except BusframeError`` in a handler leaves them alone.
"""


class RetryAfter(Exception):
    """Try again after a time of the handler's choosing. Counts as an attempt, within the policy's ``max_attempts``.

    Args:
        delay_s: seconds until the next attempt.
        reason: for logs and the failure record.
    """

    def __init__(self, delay_s: float, reason: str = "") -> None:
        super().__init__(reason or f"retry after {delay_s} s")
        self.delay_s = max(0.0, delay_s)
        self.reason = reason


class PauseSource(Exception):
    """Something outside is down: this delivery waits in its lane and its source is not fetched. Counts no attempt.

    Args:
        delay_s: seconds until the source goes on.
        reason: for logs and health.
    """

    def __init__(self, delay_s: float, reason: str = "") -> None:
        super().__init__(reason or f"pause for {delay_s} s")
        self.delay_s = max(0.0, delay_s)
        self.reason = reason


class Reject(Exception):
    """This message can never be handled: dead-letter it now, as ``rejected``.

    Args:
        reason: why, for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "rejected")
        self.reason = reason


class Discard(Exception):
    """Nothing to do: acknowledge it, and count it as discarded.

    Args:
        reason: why, for logs.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "discarded")
        self.reason = reason
