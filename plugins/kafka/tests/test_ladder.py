"""The rungs: every delay ends at its time, and each topic is in the order of its times."""

from hypothesis import given
from hypothesis import strategies as st

from busframe_kafka.ladder import (
    LAST,
    LAST_S,
    LONGEST_S,
    RUNGS,
    format_due,
    next_step,
    parse_due,
    rung_of,
    wait_topic,
    wait_topics,
)

DELAYS = st.floats(0, LONGEST_S)


@given(DELAYS)
def test_a_rung_is_the_highest_that_is_not_longer_than_what_remains(remaining_s: float) -> None:
    """And what is shorter than all of them is for the last topic."""
    name = rung_of(remaining_s)
    fitting = [dwell_s for dwell_s in RUNGS.values() if dwell_s <= remaining_s]
    assert RUNGS.get(name) == max(fitting, default=None)


@given(DELAYS, st.booleans())
def test_a_record_reaches_its_target_at_its_time_and_never_before(delay_s: float, held: bool) -> None:
    """Unless its readers hold it for the last seconds themselves; then it comes to them within these."""
    now, due = 1000.0, 1000.0 + delay_s
    topic, hops = wait_topic("p-", rung_of(delay_s)), 0
    while topic != "target":
        step = next_step("p-", topic, now, due, "target", held=held)
        assert now <= step.at <= due or delay_s < LAST_S
        now, topic, hops = step.at, step.topic, hops + 1
        assert hops < 800
    assert abs(now - due) <= (LAST_S if held else 1e-6)
    assert now <= due


@given(DELAYS, st.floats(0, 100), st.floats(0, 1000))
def test_a_rung_is_in_the_order_of_its_times(delay_s: float, later_s: float, more_s: float) -> None:
    """What was stored earlier in a rung leaves it earlier, whatever both are due."""
    topic = wait_topic("", "5s")
    one = next_step("", topic, 0.0, 5.0 + delay_s, "t", held=False)
    two = next_step("", topic, later_s, later_s + 5.0 + more_s, "t", held=False)
    assert one.at <= two.at


def test_topics_are_named_by_prefix_and_rung() -> None:
    """The names are part of what is stored: they never change."""
    assert wait_topics("shop-") == {
        "shop-bf--wait-last": 0.0,
        "shop-bf--wait-5s": 5.0,
        "shop-bf--wait-30s": 30.0,
        "shop-bf--wait-3m": 180.0,
        "shop-bf--wait-20m": 1200.0,
        "shop-bf--wait-2h": 7200.0,
        "shop-bf--wait-12h": 43200.0,
    }
    assert wait_topic("", LAST) == "bf--wait-last"


def test_a_due_time_survives_its_text_and_nonsense_is_due_at_once() -> None:
    """What a foreign program wrote may not hold a record up for ever."""
    assert parse_due(format_due(1700000000.125)) == 1700000000.125
    assert [parse_due(text) for text in (None, "", "soon", "nan", "inf")] == [0.0] * 5
