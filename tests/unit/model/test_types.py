from busframe.model.types import message_type, type_ids


class Plain:
    pass


@message_type("order-placed", "OrderCreated", "order.created")
class Placed:
    """A payload."""


class Special(Placed):
    pass


def test_a_class_is_called_by_its_name() -> None:
    """Without a decorator the class name is the type."""
    assert type_ids(Plain) == ("Plain",)
    assert type_ids(int) == ("int",)


def test_a_stable_name_outlives_the_class_name() -> None:
    """The first id is sent, the aliases are accepted, and the class stays what it was."""
    assert type_ids(Placed) == ("order-placed", "OrderCreated", "order.created")
    assert Placed.__name__ == "Placed"
    assert Placed.__doc__ == "A payload."


def test_a_subclass_is_another_type() -> None:
    """Its parent's ids are not its own, unless it says so."""
    assert type_ids(Special) == ("Special",)
    assert type_ids(message_type("special")(Special)) == ("special",)
    assert type_ids(Placed)[0] == "order-placed"
