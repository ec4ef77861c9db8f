"""A real server under test: what every broker's server can do, whoever runs it."""

import time
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, Self


class Unavailable(Exception):
    """No server can be had here; the message is one line that says why."""


class Runner(Protocol):
    """Whoever runs the server: a process of ours, docker compose, or somebody else."""

    def start(self) -> None:
        """Start the server on the data it left behind, or on none; do not wait until it answers."""

    def stop(self) -> None:
        """Ask the server to end and wait until it has; nothing to do where it does not run."""

    def kill(self) -> None:
        """End the server at once, as a power cut would, and wait until it is gone."""

    def remove(self) -> None:
        """Remove what the stopped server has left behind outside of its folder."""

    def running(self) -> bool:
        """Say whether the server's process still lives."""

    def run(self, *command: str) -> str:
        """Run *command* beside the server, for instance its administration tool, and return what it printed."""

    def log(self) -> str:
        """Return the end of what the server has logged."""


class Server(ABC):
    """A server at `url`. Its address and its data survive `stop`, `kill` and `restart`."""

    start_timeout_s: ClassVar[float] = 60.0

    def __init__(self, url: str, runner: Runner) -> None:
        self.url = url
        self.runner = runner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @abstractmethod
    def ready(self) -> bool:
        """Say whether the server answers its protocol now; blocks for at most a second."""

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in `start_timeout_s`; the message ends with its log.
        """
        self.runner.start()
        try:
            self.wait_ready()
        except RuntimeError:
            self.runner.kill()
            raise
        return self

    def wait_ready(self) -> None:
        """Wait until the server answers, at most `start_timeout_s`."""
        deadline = time.monotonic() + self.start_timeout_s
        while not self.ready():
            if not self.runner.running():
                raise RuntimeError(f"{self!r} ended while it started:\n{self.runner.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self!r} does not answer after {self.start_timeout_s} s:\n{self.runner.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server as an operator would; harmless where it has ended already."""
        self.runner.stop()

    def kill(self) -> None:
        """Kill the server with SIGKILL: nothing is flushed and no connection is closed politely."""
        self.runner.kill()

    def restart(self) -> None:
        """Stop the server and start it again on the same data and the same address."""
        self.stop()
        self.start()
