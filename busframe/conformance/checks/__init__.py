"""The checks, a file for each letter of the specification. Importing this registers all of them."""

from busframe.conformance.checks import (
    delays,
    fidelity,
    foreign,
    publish,
    retries,
)

__all__ = [
    "delays",
    "fidelity",
    "foreign",
    "publish",
    "retries",
]
