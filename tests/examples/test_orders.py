"""The shop: its table agrees with formulas that are written here a second time, on every transport and on re-runs."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from busframe import Bus, Queue
from tests.docs.pages import blocks
from tests.docs.pages import environment as documented
from tests.examples.run import EXAMPLES, run, without_settings

FOLDER = EXAMPLES / "02-orders"

pytestmark = pytest.mark.slow


def expected_table(orders: int) -> dict[str, list[int]]:
    """Workers, messages, handled, after a retry, dead letters of each source, by arithmetic alone."""
    cancelled = orders // 5
    busy = orders // 6
    declined = (orders + 3) // 10  # 7, 17, 27, …
    low = (orders + 3) // 4  # 1, 5, 9, …
    paid = orders - declined
    mails = orders - low + declined
    everything = orders + cancelled + paid
    return {
        "order-events/inventory": [10, orders + cancelled, orders + cancelled, 0, 0],
        "order-events/payment": [10, orders, paid, busy, declined],
        "order-events/payment!dead": [10, declined, declined, 0, 0],
        "order-events/notification": [10, orders - low, orders - low, 0, 0],
        "email-queue": [3, mails, mails, 0, 0],
        "order-events/analytics": [10, everything, everything, 0, 0],
    }


def table_of(output: str) -> dict[str, list[int]]:
    """The rows of a printed table."""
    rows = re.findall(r"^\| ([\w!/-]+) +((?:\| +\d+ )+)\|$", output, re.MULTILINE)
    return {source: [int(number) for number in re.findall(r"\d+", numbers)] for source, numbers in rows}


def check(done: subprocess.CompletedProcess[str], orders: int) -> None:
    """A run has ended well, and its counts are those of so many orders."""
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert table_of(done.stdout) == expected_table(orders)
    expected = expected_table(orders)
    paid = expected["order-events/payment"][2]
    assert f"{orders} OrderCreated, {orders // 5} OrderCancelled, {paid} OrderPaid" in done.stdout
    assert "Cancellations that overtook their order: 0." in done.stdout
    assert "Everything that was published is accounted for." in done.stdout


def test_the_output_is_the_expected_one() -> None:
    """Nothing but the order of the lines differs from the file."""
    done = run(FOLDER)
    check(done, 30)
    assert sorted(done.stdout.splitlines()) == sorted((FOLDER / "expected-output.txt").read_text().splitlines())


@pytest.mark.parametrize("orders", [0, 1, 7, 143])
def test_the_counts_follow_the_orders(orders: int) -> None:
    """Each number of the table is what the number of orders makes it."""
    check(run(FOLDER, "--orders", str(orders)), orders)


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    """`make demo` runs it from the root of the checkout."""
    check(run(tmp_path, program=str(FOLDER / "main.py")), 30)


def test_many_things_that_happen_are_not_all_told() -> None:
    """Of a large run the first lines are shown, and the rest is counted."""
    lines = [line for line in run(FOLDER, "--orders", "150").stdout.splitlines() if line.startswith("  order ")]
    assert len(lines) == 20


def test_it_runs_on_rabbitmq_again_and_again(rabbitmq_vhost: str) -> None:
    """The same code on RabbitMQ has the same counts, whatever an earlier run has left there."""
    for orders in (30, 12):
        check(run(FOLDER, "--orders", str(orders), "--url", rabbitmq_vhost), orders)


def test_it_runs_on_kafka_again_and_again(kafka_url: str) -> None:
    """The same on Kafka."""
    for orders in (30, 12):
        check(run(FOLDER, "--orders", str(orders), "--url", kafka_url), orders)


def test_it_runs_on_nats_again_and_again(nats_url: str) -> None:
    """And on NATS."""
    for orders in (30, 12):
        check(run(FOLDER, "--orders", str(orders), "--url", nats_url), orders)


def test_a_killed_run_does_not_disturb_the_next_one(rabbitmq_vhost: str) -> None:
    """What a killed run leaves on the broker is handled by the next one, and not counted."""
    first = subprocess.Popen(
        [sys.executable, "main.py", "--orders", "400", "--url", rabbitmq_vhost],
        cwd=FOLDER,
        env=without_settings(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    for line in first.stdout:
        if "dead letter" in line:
            break
    first.kill()
    first.wait()
    first.stdout.close()
    check(run(FOLDER, "--orders", "30", "--url", rabbitmq_vhost), 30)


def test_a_missing_message_is_no_success(tmp_path: Path) -> None:
    """The program ends with 1 when something that was published is never handled."""
    program = tmp_path / "lossy.py"
    program.write_text(
        "import asyncio, sys\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        "import main\n"
        "main.bus.override({'url': 'memory://'})\n"
        "main.ledger.published['order-events/analytics'].add('lost on the way')\n"
        "complete = main.ledger.complete\n"
        "main.ledger.complete = lambda patience_s: complete(0.5)\n"
        "sys.exit(0 if asyncio.run(main.demonstrate(3)) else 1)\n"
    )
    done = run(tmp_path, program=str(program))
    assert done.returncode == 1, done.stderr
    assert "Not accounted for: 1 of order-events/analytics." in done.stdout


def test_a_broker_that_is_not_there_is_one_line() -> None:
    """An unknown URL ends the program with a sentence, not with a traceback."""
    done = run(FOLDER, "--url", "nowhere://localhost")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_it_in_order() -> None:
    """Whoever has seen enough gets one line, and no traceback."""
    running = subprocess.Popen(
        [sys.executable, "main.py", "--orders", "5000"],
        cwd=FOLDER,
        env=without_settings(),
        # A shell that runs the tests in the background has them, and so this, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if "dead letter" in line:
            break
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (1, "Stopped.\n")


def test_it_runs_as_two_processes(rabbitmq_vhost: str) -> None:
    """The commands of the README find the application through busframe.toml; what one publishes the other handles."""
    (worker_command, _), (publish_command, _) = blocks(FOLDER / "README.md")[-1].commands
    environment = documented(BUSFRAME_URL=rabbitmq_vhost)  # stronger than the profile
    worker = subprocess.Popen(
        worker_command.split(),
        cwd=FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("order-events/analytics"):
                break
        command = ["bash", "-c", publish_command]
        subprocess.run(command, cwd=FOLDER, env=environment, timeout=30, check=True)
        for line in worker.stdout:
            if "order 7 " in line:
                break
        assert "is a dead letter (gave-up: customer-8 has no money)" in line
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.communicate()


async def test_names_on_a_broker_have_a_prefix(rabbitmq_vhost: str) -> None:
    """A queue of the same name that belongs to somebody else is left alone."""
    theirs = Queue("email-queue", str)
    bus = Bus(rabbitmq_vhost, uses=[theirs])
    found = []

    @bus.handle(theirs)
    async def read(text: str) -> None:
        found.append(text)

    async with bus:
        await bus.publish(theirs, "somebody else's")
    done = await asyncio.to_thread(run, FOLDER, "--orders", "6", "--url", rabbitmq_vhost)
    check(done, 6)
    async with bus.worker() as worker:
        await worker.wait_idle(0.5)
    assert found == ["somebody else's"]
