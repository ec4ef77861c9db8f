"""What an application holds."""

from busframe.bus.bus import Bus

__all__ = ["Bus"]
