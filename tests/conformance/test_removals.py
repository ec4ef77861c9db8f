"""Each line that makes a promise true is missed by a check."""

import re
from pathlib import Path

import pytest

from tests.conformance.removals import REMOVALS, Removal, outcome_without

pytestmark = pytest.mark.slow


def named(removal: Removal) -> str:
    """For the test's name."""
    return f"{removal.check}-{removal.promise}"


@pytest.mark.parametrize("removal", [each for each in REMOVALS if each.scheme == "memory"], ids=named)
def test_a_check_misses_the_line(removal: Removal, tmp_path: Path) -> None:
    """On a copy of the packages without the line the check fails."""
    outcome, detail = outcome_without(removal, tmp_path, "memory://")
    assert outcome == "failed", detail
    assert re.search(removal.says, detail), detail


@pytest.mark.parametrize("removal", [each for each in REMOVALS if each.scheme == "amqp"], ids=named)
def test_a_check_misses_the_line_on_rabbitmq(removal: Removal, tmp_path: Path, rabbitmq_vhost: str) -> None:
    """The same for lines that only a transport with copies, connections and tags has."""
    outcome, detail = outcome_without(removal, tmp_path, rabbitmq_vhost)
    assert outcome == "failed", detail
    assert re.search(removal.says, detail), detail
