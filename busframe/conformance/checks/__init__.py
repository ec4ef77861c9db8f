"""The checks, a file for each letter of the specification. Importing this registers all of them."""

from busframe.conformance.checks import (
    delays,
    publish,
    retries,
)

__all__ = [
    "delays",
    "publish",
    "retries",
]
