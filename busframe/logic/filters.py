"""Which messages a subscription takes."""

from collections.abc import Mapping, Sequence


def matches(where: Mapping[str, str | Sequence[str]], headers: Mapping[str, str]) -> bool:
    """Whether headers have, for every name of the filter, one of its values. An empty filter takes everything."""
    for name, wanted in where.items():
        value = headers.get(name)
        if value != wanted if isinstance(wanted, str) else value not in wanted:
            return False
    return True


def combinations(where: Mapping[str, str | Sequence[str]]) -> int:
    """How many single-value filters say the same: what a broker without lists of values has to hold."""
    count = 1
    for values in where.values():
        count *= 1 if isinstance(values, str) else len(set(values))
    return count
