"""Where downloaded servers are kept: outside the checkout, built once, shared by every run."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def cache_root() -> Path:
    """Return the folder that holds all cached servers, creating it if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(base) / "busframe-servers"
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on *path*; the kernel drops it when the holder dies, so it is never stale."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder *name* of the cache, calling *build* to fill it if no earlier run has.

    Args:
        name: names the server, its version and the recipe: a changed recipe needs a changed name.
        build: fills the folder it is given. If it raises, nothing is kept and the next run starts afresh.

    Two runs at once build once: the second waits for the first and finds the folder there.
    """
    root = cache_root()
    place = root / name
    with locked(root / f"{name}.lock"):
        if not place.is_dir():
            draft = root / f"{name}.building"
            shutil.rmtree(draft, ignore_errors=True)
            build(draft)
            # A rename is atomic: a folder that has its final name is complete.
            draft.rename(place)
    return place
