from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.filters import combinations, matches

values = st.sampled_from(["", "e", "eu", "us", "EU"])
header_names = st.sampled_from(["region", "tier", "Region"])
headers = st.dictionaries(header_names, values)
wheres = st.dictionaries(header_names, values | st.lists(values, max_size=3) | st.lists(values, max_size=3).map(tuple))


def single_filters(where: dict[str, str | list[str]]) -> set[tuple[tuple[str, str], ...]]:
    """All filters of one value for each name that together say the same."""
    choices = [
        [(name, value) for value in ([wanted] if isinstance(wanted, str) else wanted)] for name, wanted in where.items()
    ]
    return set(product(*choices))


@given(wheres, headers)
def test_it_matches_what_some_combination_of_its_values_matches(
    where: dict[str, str | list[str]], given_headers: dict[str, str]
) -> None:
    """A filter takes a message when it has, for every name, one of the values, letter by letter."""
    expected = any(set(single) <= set(given_headers.items()) for single in single_filters(where))
    assert matches(where, given_headers) is expected


@given(wheres)
def test_combinations_are_counted(where: dict[str, str | list[str]]) -> None:
    """A broker without lists of values needs one filter for each combination, none twice."""
    assert combinations(where) == len(single_filters(where))


def test_an_empty_filter_takes_everything() -> None:
    """No names: all messages, also those without headers."""
    assert matches({}, {})
    assert matches({}, {"region": "eu"})
    assert combinations({}) == 1


def test_an_empty_list_takes_nothing() -> None:
    """A name with no values cannot match."""
    assert not matches({"region": ()}, {"region": ""})


def test_a_text_is_one_value_and_not_its_letters() -> None:
    """where={"region": "eu"} means eu, neither e nor a part of it."""
    assert not matches({"region": "eu"}, {"region": "e"})
    assert not matches({"region": "eu"}, {"region": ""})
    assert combinations({"region": "eu"}) == 1
