"""What an error means to a shell, and to a person."""

from busframe.errors import (
    AccessDenied,
    BusframeError,
    ConfigurationError,
    ConnectionFailed,
    InvalidHeader,
    PluginError,
    Unsupported,
)

FAILED = 1
USAGE = 2
NOT_REACHED = 4


def exit_code(error: BusframeError) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, ConfigurationError | PluginError | Unsupported | InvalidHeader):
        return USAGE
    # A worker supervises its connection once it runs: these end a command only when it cannot begin.
    return NOT_REACHED if isinstance(error, ConnectionFailed | AccessDenied) else FAILED


def explanation(error: BusframeError) -> str:
    """An error's text with its notes, for a person."""
    text = str(error) or type(error).__name__
    return "\n".join([text, *getattr(error, "__notes__", ())])
