"""Which writes a destination has seen within the de-duplication window."""


class RecentWrites:
    """Keys with the time they were written, in two generations.

    A generation collects for one window and is kept for another: nothing is forgotten early, and forgetting costs
    nothing for each key.
    """

    __slots__ = ("_new", "_old", "_since", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._new: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self._since = float("-inf")

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, key: str, now: float) -> bool:
        """Remember a write. Returns False where there was one of this key less than a window ago."""
        window_s = self.window_s
        if not window_s:
            return True
        if now - self._since >= window_s:
            self._old = self._new if now - self._since < 2 * window_s else {}
            self._new = {}
            self._since = now
        at = self._new.get(key)
        if at is None:
            at = self._old.get(key)
        if at is not None and now - at < window_s:
            return False
        self._new[key] = now
        return True
