"""Servers that are processes of ours."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A server must not outlive the run that started it, however the run ends. Linux can kill a child when the
# *thread* that started it dies, so all are started by one thread that lives as long as the interpreter.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


class ProcessRunner:
    """Runs a server in the foreground as a child of ours, in a process group of its own.

    Args:
        command: the program and its arguments; it must stay in the foreground.
        folder: the server's working folder, which also gets its log.
        env: the whole environment of the server.
    """

    stop_timeout_s = 30.0

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.folder = folder
        self.env = dict(os.environ if env is None else env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """Where the server's output goes; it is kept over restarts."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start the process."""
        self._process = _starter.submit(self._popen).result()

    def stop(self) -> None:
        """Send SIGTERM and wait; SIGKILL after `stop_timeout_s`."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def remove(self) -> None:
        """Do nothing: everything is in the folder, which belongs to the caller."""

    def running(self) -> bool:
        """Say whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def run(self, *command: str) -> str:
        """Run *command* with the server's environment, in its folder."""
        return checked_output([*command], cwd=self.folder, env=self.env)

    def log(self) -> str:
        """Return the last 4000 characters of the server's output."""
        return self.log_file.read_text(errors="replace")[-4000:] if self.log_file.exists() else ""

    def pid(self) -> int | None:
        """Return the process that gets the signals, or None where there is none."""
        return self._process.pid if self._process is not None and self.running() else None

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _popen(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [*_DIE_WITH_PARENT, *self.command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop the server
            )


def checked_output(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 600.0
) -> str:
    """Run *command* and return what it printed.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    done = subprocess.run(
        command, cwd=cwd, env=env, timeout=timeout_s, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
