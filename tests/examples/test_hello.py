"""The first example prints what its file says, in memory and on every broker."""

import pytest

from tests.examples.run import EXAMPLES, run

FOLDER = EXAMPLES / "01-hello"
EXPECTED = (FOLDER / "expected-output.txt").read_text()

pytestmark = pytest.mark.slow


def test_hello_prints_what_is_expected() -> None:
    """The program ends by itself, with the expected output and nothing on standard error."""
    done = run(FOLDER)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")


def test_hello_prints_the_same_on_rabbitmq(rabbitmq_vhost: str) -> None:
    """Another URL is all that another broker takes."""
    done = run(FOLDER, BUSFRAME_URL=rabbitmq_vhost)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")


def test_hello_prints_the_same_on_kafka(kafka_url: str) -> None:
    """Likewise; but messages without a key are on several partitions, and so in no order."""
    done = run(FOLDER, BUSFRAME_URL=kafka_url)
    assert (done.returncode, sorted(done.stdout.splitlines()), done.stderr) == (0, sorted(EXPECTED.splitlines()), "")


def test_hello_prints_the_same_on_nats(nats_url: str) -> None:
    """And another one."""
    done = run(FOLDER, BUSFRAME_URL=nats_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")


def test_the_readme_shows_the_expected_output() -> None:
    """What the example's README promises is what the test compares with."""
    assert f"$ python main.py\n{EXPECTED}```" in (FOLDER / "README.md").read_text()
