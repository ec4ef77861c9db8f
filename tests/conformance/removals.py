"""Lines that make a promise true: without any one of them, a check of the kit fails.

Each is taken out of a copy of the packages, and the check is run on the copy: ``python -m tests.conformance.removals``
shows them all, and a test demands each.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (Path("busframe"), Path("plugins/rabbitmq/busframe_rabbitmq"))


@dataclass(frozen=True)
class Removal:
    """One line that is taken out.

    Attributes:
        promise: what it makes true.
        file: where it stands.
        line: what stands there, once in the file.
        instead: what is put there.
        check: what has to fail.
        says: what it says then, so that it fails for this reason: a regular expression.
        scheme: of the transport on which it fails.
    """

    promise: str
    file: str
    line: str
    instead: str
    check: str
    says: str
    scheme: str = "memory"


REMOVALS = (
    Removal(
        "a failure is recorded on the message",
        "busframe/runtime/verdicts.py",
        "record_failure(delivery.carried, self.address, attempt, _rfc3339(now))",
        "delivery.carried",
        "H2",
        "the attempts were",
    ),
    Removal(
        "a success whose acknowledgement was lost is remembered",
        "busframe/runtime/handle.py",
        "if delivery.deliveries > 1 and delivery in self._successes:",
        "if False:",
        "V1",
        "was run again",
    ),
    Removal(
        "an expired message is not handled",
        "busframe/runtime/handle.py",
        "if is_expired(delivery.carried, self._clock()):",
        "if False:",
        "I5",
        "the dead letters were",
    ),
    Removal(
        "a dead letter carries its record",
        "busframe/runtime/verdicts.py",
        "dead_letter_headers(delivery.carried, record)",
        "delivery.carried",
        "I2",
        "without a failure record",
    ),
    Removal(
        "no more is in flight than the limit",
        "busframe/logic/credit.py",
        "return max(0, self.window - self.in_flight)",
        "return 1000",
        "K1",
        "messages at another consumer",
    ),
    Removal(
        "a filter is asked",
        "busframe/logic/filters.py",
        "return False",
        "return True",
        "D4",
        "unexpected",
    ),
    Removal(
        "a finished delivery frees its key",
        "busframe/runtime/source.py",
        "self._slots.lanes.finish(flight.lane)",
        "pass",
        "G1",
        "a third of the messages handled",
    ),
    Removal(
        "what a receiver held is not its own after a reconnect",
        "busframe/memory/store.py",
        "consumer.held.clear()",
        "pass",
        "F7",
        "and not as SettlementLost",
    ),
    Removal(
        "a publish that failed is an error",
        "busframe/handling/outlet.py",
        "            raise _named(outcome, outgoing)\n        return outgoing.message",
        "            pass\n        return outgoing.message",
        "U1",
        "after a publish that failed",
    ),
    Removal(
        "a letter is removed when its copy is confirmed, and not before",
        "busframe/bus/dead_letters.py",
        "if outcome is None]",
        "]",
        "V14",
        "dead letters of",
    ),
    Removal(
        "the original is acknowledged when its copy is confirmed, and not before",
        "busframe/spi/copy.py",
        "    if outcome is not None:\n",
        "    if False:\n",
        "I3",
        "it is lost",
        "amqp",
    ),
    Removal(
        "a receipt is of one session, because tags begin anew on the next",
        "plugins/rabbitmq/busframe_rabbitmq/receiver.py",
        "if of is not session or session is None or tag not in session.held:",
        "if session is None or tag not in session.held:",
        "F7",
        "and not as SettlementLost",
        "amqp",
    ),
    Removal(
        "a publish waits for its confirmation",
        "plugins/rabbitmq/busframe_rabbitmq/publisher.py",
        "                await batch.done\n",
        "                pass\n",
        "A4",
        "DestinationNotFound was expected",
        "amqp",
    ),
    Removal(
        "the server tells of a message that it can bring nowhere",
        "plugins/rabbitmq/busframe_rabbitmq/publisher.py",
        "mandatory=delayed or not topic,",
        "mandatory=False,",
        "A4",
        "DestinationNotFound was expected",
        "amqp",
    ),
    Removal(
        "the letters that stay go back also when the newest one was removed",
        "plugins/rabbitmq/busframe_rabbitmq/letters.py",
        "self._channel.requeue(0, multiple=True)",
        "self._channel.requeue(self._taken, multiple=True)",
        "V14",
        ".",
        "amqp",
    ),
    Removal(
        "a cumulative acknowledgement stops below what is unfinished",
        "busframe/logic/offsets.py",
        "list(takewhile(self._finished.__getitem__, self._finished))",
        "list(self._finished)",
        "F9",
        "0 of 1 messages came",
        "amqp",
    ),
)


def take_out(removal: Removal, folder: Path) -> None:
    """Copy the packages into a folder, without the line.

    Raises:
        AssertionError: the line does not stand there once: the list is to be brought up to date.
    """
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / removal.file
    text = path.read_text()
    assert text.count(removal.line) == 1, f"{removal.file} has {text.count(removal.line)} times {removal.line!r}"
    path.write_text(text.replace(removal.line, removal.instead))


def outcome_without(removal: Removal, folder: Path, url: str) -> tuple[str, str]:
    """Run the check on a copy without the line: (outcome, detail)."""
    take_out(removal, folder)
    process = subprocess.run(
        [sys.executable, "-m", "busframe", "conformance", url, "--only", removal.check, "--json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "plugins/rabbitmq")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode in (0, 1), process.stderr
    (result,) = json.loads(process.stdout)["checks"]
    return result["outcome"], result["detail"]


def main() -> None:
    """Show every removal and the check that catches it."""
    from tempfile import TemporaryDirectory

    from tests.brokers.find import running
    from tests.brokers.rabbitmq import BROKER

    with running(BROKER) as server:
        for removal in REMOVALS:
            with TemporaryDirectory() as folder:
                url = server.url if removal.scheme == "amqp" else "memory://"
                outcome, detail = outcome_without(removal, Path(folder), url)
            print(f"{removal.check:4} {outcome:8} without: {removal.promise} ({removal.scheme})")  # noqa: T201
            print(f"     {detail.splitlines()[0] if detail else ''}")  # noqa: T201


if __name__ == "__main__":
    main()
