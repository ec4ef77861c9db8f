"""busframe_nats.held"""

import pytest

from busframe.errors import SettlementLost
from busframe.model.settlement import ACK, RELEASE, Ack, Nack, Release
from busframe_nats.held import RECORDED, Held


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        """Its time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def held(clock: Clock) -> Held:
    """With an acknowledgement due after thirty seconds."""
    return Held(clock)


def settle(held: Held, receipt: object, settlement: Ack | Nack | Release) -> tuple[SettlementLost | None, list[bytes]]:
    """The outcome, and what the server is told."""
    commands: list[bytes] = []
    return held.settle(receipt, settlement, commands), commands  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settlement", "told"),
    [(ACK, b"+ACK"), (RELEASE, b"-NAK"), (Nack(), b"-NAK"), (Nack(1.5), b'-NAK {"delay": 1500000000}')],
)
def test_each_settlement_has_its_word(held: Held, settlement: Ack | Nack | Release, told: bytes) -> None:
    """As the server knows them."""
    receipt = held.add(b"reply.1", 1)
    assert settle(held, receipt, settlement) == (None, [b"PUB reply.1 %d\r\n%b\r\n" % (len(told), told)])
    assert len(held) == 0


def test_a_second_settlement_is_lost(held: Held) -> None:
    """Whichever it is, and the server hears nothing of it."""
    receipt = held.add(b"r", 1)
    settle(held, receipt, Nack())
    outcome, commands = settle(held, receipt, ACK)
    assert isinstance(outcome, SettlementLost)
    assert commands == []


def test_what_is_renewed_is_held_for_ever(held: Held, clock: Clock) -> None:
    """Three times as often as the server asks."""
    receipt = held.add(b"r", 1)
    for _ in range(30):
        assert not held.is_due
        clock.now += 10
        assert held.is_due
        assert held.renew() == [b"PUB r 4\r\n+WPI\r\n"]
    assert held.owns(receipt)


def test_what_is_not_renewed_is_lost_but_its_acknowledgement_counts(held: Held, clock: Clock) -> None:
    """The server takes a late acknowledgement, and drops whatever else is late."""
    first, second = held.add(b"1", 1), held.add(b"2", 2)
    clock.now += 30.1
    assert not held.owns(first)
    outcome, commands = settle(held, first, Nack(1))
    assert isinstance(outcome, SettlementLost)
    assert commands == []
    assert settle(held, second, ACK) == (None, [b"PUB 2 4\r\n+ACK\r\n"])


def test_with_one_that_is_late_all_are_let_go(held: Held, clock: Clock) -> None:
    """And the generation says so."""
    held.add(b"1", 1)
    clock.now += 29
    young = held.add(b"2", 2)
    clock.now += 2
    assert held.owns(young)
    assert held.renew() is None
    assert (len(held), held.generation, held.owns(young)) == (0, 1, False)
    assert held.renew() == []


def test_a_message_that_comes_again_replaces_the_older_delivery(held: Held) -> None:
    """The server had taken it back."""
    old, new = held.add(b"old", 1), held.add(b"new", 1)
    assert (held.owns(old), held.owns(new)) == (False, True)
    assert isinstance(settle(held, old, RELEASE)[0], SettlementLost)
    assert held.owns(new)


def test_what_is_given_back_is_settled(held: Held) -> None:
    """Some of it, then all."""
    one, two = held.add(b"1", 1), held.add(b"2", 2)
    assert held.give_back([one]) == [b"PUB 1 4\r\n-NAK\r\n"]
    assert held.give_back([one]) == []
    assert held.give_back() == [b"PUB 2 4\r\n-NAK\r\n"]
    assert isinstance(settle(held, two, ACK)[0], SettlementLost)


def test_failures_are_known_until_the_message_is_done(held: Held) -> None:
    """The server cannot store them. Only so many are kept."""
    settle(held, held.add(b"r", 1), Nack(0, {"bf-attempt": "1 q"}))
    assert held.recorded(1) == {"bf-attempt": "1 q"}
    settle(held, held.add(b"r", 1), ACK)
    assert held.recorded(1) is None
    for seq in range(RECORDED + 1):
        settle(held, held.add(b"r", seq), Nack(0, {"bf-attempt": "1 q"}))
    assert held.recorded(0) is None
    assert held.recorded(1) is not None
