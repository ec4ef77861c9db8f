from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from busframe.errors import InvalidName
from busframe.logic.headers import MAX_ID
from busframe.logic.names import body_position, dedup_key, find_collisions, physical_name
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic
from tests.unit.logic.strategies import addresses, any_text, names, sources

KINDS = ("retry", "dead", "replay", "forward")

prefixes = st.sampled_from(["", "shop-", "a.", "A"])
ids = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_ID)
positions = st.text("0123456789/\n:-", max_size=12)
keys = st.tuples(ids, st.sampled_from(KINDS), sources.map(str), st.integers(0, 9), positions)


@given(addresses, addresses, prefixes)
def test_distinct_addresses_never_share_a_name(one: Address, other: Address, prefix: str) -> None:
    """Joined with --, no two of queues, subscriptions and dead letters, or of topics and those, have one name."""
    assume(one != other)
    assume({type(one), type(other)} != {Queue, Topic})  # a queue and a topic of one name are refused at start
    assert physical_name(one, prefix) != physical_name(other, prefix)


@given(names, names, prefixes)
def test_names_are_joined_by_two_dashes(topic: str, name: str, prefix: str) -> None:
    """The prefix goes before every name, and the parts are joined by --."""
    assume(name not in {"dead", "retry"})
    subscription = Topic(topic).subscription(name)
    assert physical_name(Queue(topic), prefix) == physical_name(Topic(topic), prefix) == f"{prefix}{topic}"
    assert physical_name(subscription, prefix) == f"{prefix}{topic}--{name}"
    assert physical_name(Queue(topic).dead_letters, prefix) == f"{prefix}{topic}--dead"
    assert physical_name(subscription.dead_letters, prefix) == f"{prefix}{topic}--{name}--dead"


@pytest.mark.parametrize("name", ["dead", "retry"])
def test_what_would_collide_is_reserved(name: str) -> None:
    """A subscription may not be called what the framework appends to a name."""
    with pytest.raises(InvalidName, match="reserved"):
        Topic("t").subscription(name)


def fold(name: str) -> str:
    """A name as the least exact broker sees it."""
    return name.replace(".", "_").lower()


def clashes(one: Address, other: Address) -> bool:
    """The rule of names, said again for each pair."""
    if isinstance(one, DeadLetters):
        return clashes(one.of, other)
    if isinstance(other, DeadLetters):
        return clashes(one, other.of)
    top = [address.topic if isinstance(address, Subscription) else address for address in (one, other)]
    if top[0].name != top[1].name:
        return fold(top[0].name) == fold(top[1].name)
    if type(top[0]) is not type(top[1]):
        return True
    if isinstance(one, Subscription) and isinstance(other, Subscription) and one.name != other.name:
        return fold(one.name) == fold(other.name)
    return False


@given(st.lists(addresses, max_size=6))
def test_collisions_are_found(used: list[Address]) -> None:
    """There are problems exactly where two addresses clash."""
    assert bool(find_collisions(used)) is any(clashes(one, other) for one, other in combinations(used, 2))


@given(st.lists(addresses, max_size=6))
def test_no_problem_is_told_twice(used: list[Address]) -> None:
    """The same addresses, said again, add nothing, and the order of the problems is stable."""
    problems = find_collisions(used)
    assert find_collisions([*used, *used])[: len(problems)] == problems
    assert len(set(problems)) == len(problems)


def test_a_queue_and_a_topic_of_one_name_are_told() -> None:
    """Also where the topic is only known from its subscription."""
    told = ["'x' is a queue and a topic: give one of them another name"]
    assert find_collisions([Queue("x"), Topic("x")]) == told
    assert find_collisions([Queue("x"), Topic("x").subscription("s")]) == told
    assert find_collisions([Topic("x").subscription("s").dead_letters, Queue("x").dead_letters]) == told


def test_names_that_kafka_takes_for_one_are_told() -> None:
    """Two names that differ only in . and _ are named both; subscriptions of different topics may."""
    told = "'a.b' and 'a_b' are one name to some broker ('.' is '_', A is a): rename one"
    assert find_collisions([Queue("a.b"), Queue("a_b")]) == [told]
    assert find_collisions([Topic("a.b").subscription("s"), Topic("a_b").subscription("s")]) == [told]
    assert find_collisions([Topic("t").subscription("x.y"), Topic("t").subscription("x_y")]) == [
        "'t/x.y' and 't/x_y' are one name to some broker ('.' is '_', A is a): rename one"
    ]
    assert find_collisions([Topic("t").subscription("x.y"), Topic("u").subscription("x_y")]) == []


def test_one_address_used_twice_is_no_collision() -> None:
    """A queue, its dead letters and the same queue with types are one name, rightly."""
    assert find_collisions([Queue("q"), Queue("q", int), Queue("q").dead_letters, Topic("t"), Topic("t")]) == []


@given(keys)
def test_a_key_is_deterministic_and_short(key: tuple[str, str, str, int, str]) -> None:
    """The same copy has the same key, which begins with the id and fits the shortest broker's 128 characters."""
    made = dedup_key(*key)  # type: ignore[arg-type]
    assert made == dedup_key(*key)  # type: ignore[arg-type]
    assert made.startswith(f"{key[0]}/")
    assert len(made) == len(key[0]) + 17 <= 128


@given(keys, keys)
def test_keys_of_different_copies_differ(
    one: tuple[str, str, str, int, str], other: tuple[str, str, str, int, str]
) -> None:
    """Another message, kind, source, number or position is another write."""
    assume(one != other)
    assert dedup_key(*one) != dedup_key(*other)  # type: ignore[arg-type]


@given(keys, st.integers(0, 4))
def test_each_part_of_a_key_counts(key: tuple[str, str, str, int, str], part: int) -> None:
    """Changing one part alone changes the key."""
    changed = list(key)
    changed[part] = {0: f"{key[0][:90]}x", 1: "other", 2: f"{key[2]}!dead", 3: key[3] + 1, 4: f"{key[4]}0"}[part]
    assume(changed[part] != key[part])
    assert dedup_key(*changed) != dedup_key(*key)  # type: ignore[arg-type]


def test_keys_are_those_of_the_wire_format() -> None:
    """A key of an older version is still the same one: brokers remember it over an upgrade."""
    assert dedup_key("id", "retry", "t/s", 1, "7") == "id/1d1c05e0b02fe18a"
    assert body_position("id", b"body") == "id:230d8358dc8e8890"


@given(ids, st.binary(), st.binary())
def test_a_body_stands_for_a_missing_position(message_id: str, one: bytes, other: bytes) -> None:
    """The same message has the same position at each delivery; another body or id has another."""
    assert (body_position(message_id, one) == body_position(message_id, other)) is (one == other)
    assert body_position(message_id, one) != body_position(f"{message_id}x", one)


@given(any_text)
def test_any_text_is_a_name_or_invalid(text: str) -> None:
    """A name never does anything but be valid, and then it is safe to join, or raise InvalidName."""
    try:
        name = Queue(text).name
    except InvalidName:
        return
    assert name == text
    assert name.isascii()
    assert "--" not in f"{name}--x".removesuffix("--x")
    assert name.strip("-") == name
