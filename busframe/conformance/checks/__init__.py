"""The checks, a file for each letter of the specification. Importing this registers all of them."""

from busframe.conformance.checks import (
    closing,
    dead_letters,
    delays,
    fanout,
    fidelity,
    foreign,
    publish,
    retries,
    settling,
)

__all__ = [
    "closing",
    "dead_letters",
    "delays",
    "fanout",
    "fidelity",
    "foreign",
    "publish",
    "retries",
    "settling",
]
