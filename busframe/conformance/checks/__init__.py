"""The checks, a file for each letter of the specification. Importing this registers all of them."""

from busframe.conformance.checks import (
    closing,
    dead_letters,
    delays,
    fanout,
    fidelity,
    filtering,
    foreign,
    handlers,
    operations,
    publish,
    recovery,
    replaying,
    retries,
    settling,
    subscriptions,
)

__all__ = [
    "closing",
    "dead_letters",
    "delays",
    "fanout",
    "fidelity",
    "filtering",
    "foreign",
    "handlers",
    "operations",
    "publish",
    "recovery",
    "replaying",
    "retries",
    "settling",
    "subscriptions",
]
