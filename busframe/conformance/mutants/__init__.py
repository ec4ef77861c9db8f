"""Mutants of the memory transport, a file for each file of checks. Importing this registers all of them."""

from busframe.conformance.mutants import (
    closing,
    dead_letters,
    delays,
    fanout,
    fidelity,
    filtering,
    handlers,
    operations,
    publish,
    recovery,
    replaying,
    retries,
    settling,
    subscriptions,
)
from busframe.conformance.mutants.mutant import MUTANTS, Mutant, MutantReceiver, MutantTransport, mutant

__all__ = [
    "MUTANTS",
    "Mutant",
    "MutantReceiver",
    "MutantTransport",
    "mutant",
    "closing",
    "dead_letters",
    "delays",
    "fanout",
    "fidelity",
    "filtering",
    "handlers",
    "operations",
    "publish",
    "recovery",
    "replaying",
    "retries",
    "settling",
    "subscriptions",
]
