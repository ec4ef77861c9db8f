import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.errors import InvalidName
from busframe.model.destination import Address, DeadLetters, Destination, Queue, Source, Subscription, Topic
from busframe.model.entity import Entity
from busframe.model.message import Message

VALID = ["a", "A9", "0", "_", "a-b", "a.b_c-d", "-".join("abc"), "x" * 80, "a_-_b", "a.-.b"]
INVALID: list[Any] = [
    "", ".", "..", ".a", "a.", "a..b", "-", "-a",
    "a-", "--", "a--b", "a---b", "a b", "a/b", "a\n", "\na", "ä", "a\0", "😀", "\ud800", "x" * 81,
    "a:b", "a*", "a>", "a#", "a!dead", "٣", "²", None, 1, b"a", ["a"],
]  # fmt: skip

CHARACTERS = "ab-_.-9Z"


def valid(name: str, longest: int) -> bool:
    """Semantics A.8, said once more."""
    return 1 <= len(name) <= longest and not re.search(r"--|\.\.", name) and not {name[0], name[-1]} & set("-.")


def subscription(topic: str = "t", name: str = "s", **said: Any) -> Subscription[Any]:
    """A subscription of which only what matters is said."""
    return Topic(topic).subscription(name, **said)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("kind", [Queue, Topic])
def test_valid_names_are_taken_as_they_are(kind: type[Any], name: str) -> None:
    """1 to 80 letters, digits and -_. without -- and .. and without - and . at an end are a name."""
    assert kind(name).name == str(kind(name)) == name


@pytest.mark.parametrize("name", INVALID, ids=repr)
def test_other_names_are_refused_where_they_are_written(name: Any) -> None:
    """Anything else is InvalidName, at once, on every transport, and the text says the rule."""
    for make in (Queue, Topic, Topic("t").subscription):
        with pytest.raises(InvalidName, match=r"is not valid on every broker: use 1 to (80|40) characters"):
            make(name)


@given(st.text(CHARACTERS, max_size=12) | st.text(CHARACTERS, min_size=38, max_size=82))
def test_names_follow_the_rule(name: str) -> None:
    """The pattern says what the sentence says, for queues and for subscriptions."""
    for make, longest in ((Queue, 80), (Topic("t").subscription, 40)):
        try:
            made = make(name)
        except InvalidName:
            assert not valid(name, longest)
        else:
            assert made.name == name
            assert valid(name, longest)


def test_a_subscriptions_name_is_shorter() -> None:
    """40 characters pass and 41 do not, so that a composed name fits every broker."""
    assert subscription(name="s" * 40).name == "s" * 40
    with pytest.raises(InvalidName, match="1 to 40"):
        subscription(name="s" * 41)


def test_the_frameworks_own_names_are_reserved() -> None:
    """bf names nothing else, and no subscription is called like what the framework appends."""
    for make, name in (
        (Queue, "bf"),
        (Topic, "bf"),
        (Queue, "amq.gen"),
        (Topic, "AMQ.topic"),
        (Topic("t").subscription, "dead"),
        (Topic("t").subscription, "retry"),
    ):
        with pytest.raises(InvalidName, match="reserved"):
            make(name)
    assert Queue("dead").name == "dead"
    assert subscription(name="bf").name == "bf"


def test_types_are_classes() -> None:
    """What is no class is a TypeError that names the destination."""
    assert Queue("q").types == ()
    assert Queue("q", int, str).types == Topic("t", int, str).types == (int, str)
    wrong: Any = "Order"
    with pytest.raises(TypeError, match=r"Queue\('q'\): 'Order' is not a class"):
        Queue("q", wrong)
    union: Any = int | str
    with pytest.raises(TypeError, match="one by one"):
        Topic("t", union)


def test_text_forms() -> None:
    """An address has one text form, the same in logs, headers, configuration and commands."""
    assert Queue("emails").address == str(Queue("emails")) == "emails"
    assert str(Topic("orders")) == "orders"
    assert subscription("orders", "stock").address == str(subscription("orders", "stock")) == "orders/stock"
    assert str(Queue("emails").dead_letters) == "emails!dead"
    assert str(subscription("orders", "stock").dead_letters) == "orders/stock!dead"


ADDRESSES: list[Callable[[], Address]] = [
    lambda: Queue("a"),
    lambda: Queue("b"),
    lambda: Topic("a"),
    lambda: subscription("a", "s"),
    lambda: subscription("a", "t"),
    lambda: subscription("b", "s"),
    lambda: Queue("a").dead_letters,
    lambda: Queue("b").dead_letters,
    lambda: subscription("a", "s").dead_letters,
]


def test_addresses_are_equal_by_kind_and_name() -> None:
    """Two of one kind and name are one, made anywhere; everything else differs, a topic from its queue too."""
    for number, make in enumerate(ADDRESSES):
        one = make()
        for other_number, make_other in enumerate(ADDRESSES):
            assert (one == make_other()) is (number == other_number)
        assert hash(one) == hash(make())
        assert one != str(one)
    assert len({make() for make in [*ADDRESSES, *ADDRESSES]}) == len(ADDRESSES)


def test_types_filters_and_options_do_not_make_another_address() -> None:
    """What is said about an address is not what it is."""
    assert Queue("a", int) == Queue("a", options={"kafka": {"partitions": 3}})
    assert subscription(where={"x": "1"}) == subscription(temporary=True, start="earliest")
    assert hash(subscription(where={"x": "1"})) == hash(subscription())


def test_a_subscription_knows_its_topic() -> None:
    """Its payloads are its topic's, its dead letters its own."""
    inventory = Topic("orders", int).subscription("inventory", options={"nats": {"x": 1}})
    assert inventory.topic == Topic("orders")
    assert inventory.types == (int,)
    assert (inventory.start, inventory.temporary) == ("latest", False)
    assert inventory.dead_letters == DeadLetters(inventory)
    assert inventory.dead_letters.options == {"nats": {"x": 1}}


def test_a_filter_is_normalised_and_ones_own() -> None:
    """One value or several are a tuple, and changing what was passed changes nothing."""
    values = ["eu", "us"]
    where: dict[str, Any] = {"region": values, "tier": "gold"}
    made = subscription(where=where)
    values.append("cn")
    where["more"] = "x"
    assert made.where == {"region": ("eu", "us"), "tier": ("gold",)}
    with pytest.raises(TypeError):
        made.where["more"] = ("x",)  # type: ignore[index]


def test_dead_letters_have_none_of_their_own() -> None:
    """Nothing is dead-lettered from there: their dead letters are themselves, their payloads messages."""
    letters = Queue("q", int).dead_letters
    assert letters.dead_letters is letters
    assert letters.of == Queue("q")
    assert letters.types == (Message,)
    assert letters.options == {}


def test_addresses_print_as_the_code_that_makes_them() -> None:
    """A repr in a log can be read back by people."""
    assert repr(Queue("q", int)) == "Queue('q', int)"
    assert repr(Topic("t")) == "Topic('t')"
    assert repr(subscription()) == "Topic('t').subscription('s')"
    assert repr(subscription(where={"r": "eu"})) == "Topic('t').subscription('s', where={'r': ('eu',)})"
    assert repr(subscription().dead_letters) == "Topic('t').subscription('s').dead_letters"


def test_classes_of_addresses() -> None:
    """A queue can be published to and consumed, a topic only published to, the others only consumed."""
    assert isinstance(Queue("q"), Destination)
    assert isinstance(Queue("q"), Source)
    assert not isinstance(Topic("t"), Source)
    assert not isinstance(subscription(), Destination)
    assert not isinstance(Queue("q").dead_letters, Destination)


def test_a_source_without_an_address_is_none() -> None:
    """The base class says nothing by itself."""
    source: Source[Any] = Source()
    with pytest.raises(NotImplementedError):
        _ = source.address
    with pytest.raises(NotImplementedError):
        _ = source.dead_letters


def test_addresses_have_no_room_for_mistakes() -> None:
    """A misspelt attribute is an error, and an entity of an address is frozen."""
    with pytest.raises(AttributeError):
        Queue("q").nmae = "x"  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        Entity(Queue("q")).max_attempts = 3  # type: ignore[misc]
