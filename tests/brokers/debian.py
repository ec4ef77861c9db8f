"""Servers from Debian's packages, in a root folder of their own.

Where no container engine is, this is a container made by hand: `debootstrap` unpacks another Debian release
into the cache, and `unshare` gives each server a mount and a process namespace of its own. The bind mounts
vanish with the namespace, and whatever the server has started (Erlang's epmd, say) dies with its first process:
nothing has to be undone, and nothing stays behind.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.brokers.cache import cached
from tests.brokers.process import ProcessRunner, checked_output
from tests.brokers.server import Unavailable

# Where a server finds its own folder inside the root.
DATA = "/srv"

_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


def debian_root(name: str, suite: str, packages: Sequence[str]) -> Path:
    """Return a folder with Debian *suite* and *packages*, from the cache or made in about a minute.

    Raises:
        Unavailable: this is not a Debian-like Linux, or we are not root on it.
    """
    if shutil.which("unshare") is None:
        raise Unavailable("installing it takes the program unshare")
    _check_root()
    return cached(name, lambda root: _install(root, suite, packages))


def install_packages(*packages: str) -> None:
    """Install *packages* on this machine.

    Raises:
        Unavailable: this is not a Debian-like Linux, or we are not root on it, or it does not work.
    """
    _check_root()
    try:
        checked_output(["apt-get", "update", "-qq"], env=_apt_env())
        checked_output(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env=_apt_env())
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"installing it failed: {str(error).strip().splitlines()[-1]}") from error


def _check_root() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise Unavailable("installing it takes root on Debian or Ubuntu")


def _apt_env() -> dict[str, str]:
    return {**_root_env(), "DEBIAN_FRONTEND": "noninteractive"}


def _install(root: Path, suite: str, packages: Sequence[str]) -> None:
    env = _apt_env()
    try:
        if shutil.which("debootstrap", path=env["PATH"]) is None:
            install_packages("debootstrap")
        include = f"--include={','.join(packages)}"
        # In namespaces here too: an interrupted debootstrap leaves no mount in a folder that we may delete.
        command = [*_NAMESPACES, "--mount-proc", "debootstrap", "--variant=minbase", include, suite, str(root)]
        checked_output([*command, *_mirror()], env=env)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"installing it failed: {str(error).strip().splitlines()[-1]}") from error
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    hosts = root / "etc/hosts"
    if not hosts.exists():  # in older releases it comes from the installer
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")


def _root_env() -> dict[str, str]:
    """Return our environment with the administrator's programs: not every way to become root adds them."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _mirror() -> list[str]:
    """Return the mirror that this machine's apt uses; without one debootstrap takes its own default."""
    listing = checked_output(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"])
    return listing.split()[:1]


class RootRunner(ProcessRunner):
    """Runs a server inside a Debian root; its folder appears there as `DATA`.

    Args:
        root: the Debian root, shared by all servers and written by none.
        command: the program and its arguments, as seen inside the root.
        folder: the server's own folder: configuration, data and log.
        env: the whole environment of the server.
    """

    def __init__(self, root: Path, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self._root = root
        self._inside_env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **env}
        enter = (
            'mount -t proc proc "$1/proc" && mount --bind "$2" "$1$3" && root=$1 && shift 3 && exec chroot "$root" "$@"'
        )
        shell = ("sh", "-c", enter, "sh", str(root), str(folder), DATA)
        super().__init__([*_NAMESPACES, "--", *shell, *self._as_inside(command)], folder, _root_env())

    def _as_inside(self, command: Sequence[str]) -> list[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self._inside_env.items()), *command]

    def run(self, *command: str) -> str:
        """Run *command* in the server's namespaces, with its environment."""
        pid = self.pid()
        if pid is None:
            raise RuntimeError("the server does not run")
        enter = ["nsenter", "--target", str(pid), "--mount", "--pid", "--", "chroot", str(self._root)]
        return checked_output([*enter, *self._as_inside(command)], env=self.env)

    def pid(self) -> int | None:
        """Return the first process of the namespace: `unshare` itself passes no signal on."""
        outer = super().pid()
        if outer is None:
            return None
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if children else None

    def kill(self) -> None:
        """Kill the first process; the kernel then kills all others of the namespace."""
        super().kill()
        if self._process is not None and self._process.poll() is None:  # killed before it had a child
            self._process.send_signal(signal.SIGKILL)
