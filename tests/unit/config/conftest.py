"""Loading with nothing from outside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from busframe.config import Configuration, load
from busframe.errors import InvalidSettings


def configure(
    folder: Path,
    toml: str = "",
    *,
    arguments: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    **more: Any,
) -> Configuration:
    """Load with a busframe.toml in a folder, and with nothing from outside."""
    if toml:
        (folder / "busframe.toml").write_text(toml, encoding="utf-8")
    return load(arguments or {}, options or {}, start=folder, environ=environ or {}, **more)


def problems(folder: Path, toml: str = "", **more: Any) -> list[str]:
    """What is wrong."""
    with pytest.raises(InvalidSettings) as caught:
        configure(folder, toml, **more)
    return list(caught.value.problems)
