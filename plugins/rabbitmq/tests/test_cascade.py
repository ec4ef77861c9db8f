"""busframe_rabbitmq.cascade"""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe_rabbitmq.cascade import LEVELS, MAX_DELAY_S, Bind, Cascade, Queue, target, units_of

NAMES = st.from_regex(r"[A-Za-z0-9_.]([A-Za-z0-9_.-]{0,30}[A-Za-z0-9_.])?", fullmatch=True)
CASCADE = Cascade("p-")


def matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange takes the key."""
    words = {"#": r"(?:[^.]*(?:\.[^.]*)*)", "*": r"[^.]*"}
    text = r"\.".join(words.get(word) or re.escape(word) for word in pattern.split("."))
    text = text.replace(words["#"] + r"\.", r"(?:[^.]*\.)*").replace(r"\." + words["#"], r"(?:\.[^.]*)*")
    return re.fullmatch(text, key) is not None


def walk(exchange: str, key: str, binds: list[Bind], queues: Mapping[str, Queue]) -> tuple[int, list[str]]:
    """What the server does with a message: how long it waits in all, in milliseconds, and who gets it."""
    waited, got = 0, list[str]()
    for bind in binds:
        if bind.exchange != exchange or not (bind.key == "" or matches(bind.key, key)):
            continue
        if not bind.of_queue:
            more, ends = walk(bind.to, key, binds, queues)
        elif bind.to in queues:
            arguments = queues[bind.to].arguments
            more, ends = walk(str(arguments["x-dead-letter-exchange"]), key, binds, queues)
            more += int(str(arguments["x-message-ttl"]))
        else:
            more, ends = 0, [bind.to]  # a door
        waited += more
        got += ends
    return waited, got


BINDS = [step for step in CASCADE.steps() if isinstance(step, Bind)]
LEVEL_QUEUES = {step.name: step for step in CASCADE.steps() if isinstance(step, Queue) and step.name in CASCADE.levels}


@given(st.floats(0.001, MAX_DELAY_S), NAMES)
def test_every_delay_is_waited_exactly(delay_s: float, name: str) -> None:
    """A message waits its delay, rounded up to 100 ms, and reaches its target and nobody else."""
    binds = [*BINDS, *(step for step in CASCADE.target_steps(name, topic=False) if isinstance(step, Bind))]
    others = [f"x.{name}", f"{name}.x", name.replace(".", "-") + "-y"]
    for other in others:
        binds += [step for step in CASCADE.target_steps(other, topic=False) if isinstance(step, Bind)]
    exchange, key = CASCADE.entry(delay_s, target(name, topic=False))
    waited, got = walk(exchange, key, binds, LEVEL_QUEUES)
    assert got == [CASCADE.door(name)]
    assert waited == units_of(delay_s) * 100
    assert -0.001 <= waited / 1000 - delay_s <= 0.101


@given(NAMES, NAMES)
def test_two_names_are_two_targets(one: str, other: str) -> None:
    """Two names, or a queue and a topic of one name, never share a target."""
    assert (target(one, topic=False) == target(other, topic=False)) == (one == other)
    assert target(one, topic=False) != target(other, topic=True)


@pytest.mark.parametrize(("delay_s", "units"), [(0.001, 1), (0.1, 1), (0.3, 3), (0.7, 7), (1.1, 11), (0.100001, 2)])
def test_delays_are_rounded_up(delay_s: float, units: int) -> None:
    """A delay is never shortened, and floating point adds no 100 ms."""
    assert units_of(delay_s) == units


def test_the_longest_delay_uses_every_level() -> None:
    """310 days: all bits are set."""
    exchange, key = CASCADE.entry(MAX_DELAY_S, "q.x")
    assert exchange == CASCADE.levels[-1]
    assert key == ".".join("1" * LEVELS) + ".q.x"


def test_what_says_that_it_is_made_is_declared_last_and_nothing_before_what_it_refers_to() -> None:
    """Where that exists the whole cascade does; a message never meets a level that is not finished."""
    steps = list(CASCADE.steps())
    made: set[str] = set()
    for step in steps:
        if isinstance(step, Bind):
            assert {step.to, step.exchange} <= made
        else:
            assert step.arguments.get("x-dead-letter-exchange", step.name) in made | {step.name}
            made.add(step.name)
    last = steps[-1]
    assert isinstance(last, Queue)
    assert last.name == CASCADE.nobody


def test_a_door_leads_to_its_target() -> None:
    """To a queue by the default exchange, to a topic's exchange as it is; at once, and with all that it takes."""
    to_queue, to_topic = CASCADE.door_arguments("p-a", topic=False), CASCADE.door_arguments("p-b", topic=True)
    assert (to_queue["x-dead-letter-exchange"], to_queue["x-dead-letter-routing-key"]) == ("", "p-a")
    assert (to_topic["x-dead-letter-exchange"], to_topic.get("x-dead-letter-routing-key")) == ("p-b", None)
    assert to_queue["x-message-ttl"] == to_topic["x-message-ttl"] == 1


def test_no_queue_expires_and_none_loses_what_it_passes_on() -> None:
    """A queue with x-expires takes its messages along; without both others a refused message is dropped."""
    doors = [CASCADE.door_arguments("a", topic=False), CASCADE.door_arguments("b", topic=True)]
    for arguments in (*(queue.arguments for queue in LEVEL_QUEUES.values()), *doors):
        assert "x-expires" not in arguments
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"
