from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.lifecycle import READY, TRANSITIONS, SourceEvent, SourceState, advance

STATES = get_args(SourceState)
EVENTS = get_args(SourceEvent)

histories = st.lists(st.sampled_from(EVENTS), max_size=30)


def after(events: list[SourceEvent]) -> SourceState:
    """The state of a source to which all this happened."""
    state: SourceState = "starting"
    for event in events:
        state = advance(state, event)
    return state


def test_every_event_is_legal_in_every_state() -> None:
    """The table is whole, and leads nowhere but to its own states."""
    assert set(TRANSITIONS) == set(STATES)
    for state in STATES:
        assert set(TRANSITIONS[state]) == set(EVENTS)
        assert {advance(state, event) for event in EVENTS} <= set(STATES)


@given(histories, histories)
def test_stopped_is_final(before: list[SourceEvent], later: list[SourceEvent]) -> None:
    """Nothing happens to a source after it was stopped."""
    assert after([*before, "stopped", *later]) == "stopped"
    assert "stopped" in before or after(before) != "stopped"


@given(histories)
def test_ready_means_that_there_is_a_consumer(events: list[SourceEvent]) -> None:
    """A source is ready exactly while it was opened and not lost since, whatever paused it and when."""
    consuming = False
    for event in events:
        if event in ("opened", "lost", "stopped"):
            consuming = event == "opened"
        if event == "stopped":
            break
    assert (after(events) in READY) is consuming


def test_paused_counts_as_ready() -> None:
    """A pause is asked for by the application, and no illness."""
    assert after(["opened", "paused"]) == "paused"
    assert "paused" in READY
    assert after(["opened", "paused", "resumed"]) == "consuming"


def test_a_pause_is_ended_by_nothing_but_its_end_or_a_loss() -> None:
    """A transport that says once more that it is there does not end a pause."""
    assert after(["opened", "paused", "opened"]) == "paused"
    assert after(["opened", "paused", "paused"]) == "paused"
    assert after(["opened", "paused", "lost"]) == "reconnecting"


def test_a_source_begins_lost_or_opened() -> None:
    """It can wait for a broker that is not there yet."""
    assert after([]) == "starting"
    assert after(["lost"]) == "reconnecting"
    assert after(["lost", "opened"]) == "consuming"
