"""Servers that are built here, by Go."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.brokers.cache import cached
from tests.brokers.process import checked_output
from tests.brokers.server import Unavailable


def built(name: str, package: str) -> Path:
    """Return the program of *package*, from the cache or built in about a minute.

    Args:
        name: of its folder in the cache; says the version.
        package: with its version, as `go install` takes it.

    Raises:
        Unavailable: there is no Go, or it cannot be built.
    """
    (program,) = cached(name, lambda folder: _build(folder, package)).iterdir()
    return program


def _build(folder: Path, package: str) -> None:
    if shutil.which("go") is None:
        raise Unavailable("building it takes Go, and there is no `go`")
    folder.mkdir(parents=True)
    try:
        checked_output(["go", "install", package], env={**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"})
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"building it failed: {str(error).strip().splitlines()[-1]}") from error
