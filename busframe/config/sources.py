"""Where settings are said: each source becomes a ``Layer``, still unjudged."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from busframe.errors import InvalidSettings

Key: TypeAlias = tuple[str, ...]
Table: TypeAlias = dict[str, Any]

FILE = "busframe.toml"
PREFIX = "BUSFRAME_"
# These choose the other sources, so they are not settings themselves.
_CHOICES = frozenset({"BUSFRAME_CONFIG", "BUSFRAME_PROFILE"})
_NAMED_TABLES = frozenset({"transports", "destinations", "handlers"})


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says.

    Attributes:
        origin: the source, for those who ask where a value came from.
        values: nested tables, as they were said.
        where: the source, for those who have to correct it.
        exact: for some keys a more exact origin, such as an environment variable's name.
    """

    origin: str
    values: Table
    where: str = ""
    exact: Mapping[Key, str] = field(default_factory=dict)

    def says(self, key: Key) -> bool:
        """Whether this source has the key."""
        value: object = self.values
        for part in key:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def origin_of(self, key: Key, *, where: bool = False) -> str:
        """Where this source says a key; ``where``: in words for those who have to correct it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.exact:
                return self.exact[key[:length]]
        return (where and self.where) or self.origin


@dataclass(frozen=True, slots=True)
class File:
    """A configuration file that was read: its path, and its table without what it is nested in."""

    path: Path
    table: Table


def dotted(key: Iterable[object]) -> str:
    """A key as TOML writes it: parts that are not plain are quoted."""
    parts = (str(part) for part in key)
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part) for part in parts)


def plain(value: object) -> Any:
    """Mappings as dicts, all the way down, so that layers can be merged."""
    return {str(key): plain(member) for key, member in value.items()} if isinstance(value, Mapping) else value


def from_options(options: Mapping[str, object]) -> Layer:
    """What the command line says; None: that option was not given."""
    given = {name: plain(value) for name, value in options.items() if value is not None}
    flags: dict[Key, str] = {(name,): f"option --{name.removesuffix('_s').replace('_', '-')}" for name in given}
    return Layer("command line", given, exact=flags)


def from_environment(
    environ: Mapping[str, str], names: Iterable[str], fields: Iterable[str]
) -> tuple[Layer, list[str]]:
    """What ``BUSFRAME_*`` says, and the problems with it.

    A variable's name can hold no ``-`` or ``.`` and no capitals, so a part that stands for a name of the application is
    compared with the known ones without regard to these. Other variables with the same beginning are left alone (a
    test suite has its own), unless they are close to the name of a setting.

    Values stay texts, for the settings' own types to judge, but for JSON tables and lists: pydantic-settings' own
    environment source would read the password "12345" as a number.
    """
    values: Table = {}
    exact: dict[Key, str] = {}
    problems: list[str] = []
    names = sorted(set(names))
    said = (name for name, value in environ.items() if name.startswith(PREFIX) and value and name not in _CHOICES)
    for variable in sorted(said, key=lambda name: (name.count("__"), name)):  # tables before what they hold
        section, *inside = variable.removeprefix(PREFIX).lower().split("__")
        if section not in fields:
            # In a short name two letters that changed places are already far apart by difflib's measure.
            anagrams = [field for field in fields if sorted(field) == sorted(section)]
            if close := anagrams or get_close_matches(section, list(fields), n=1, cutoff=0.8):
                meant = PREFIX + "__".join((close[0], *inside)).upper()
                problems.append(f"environment {variable}: there is no such setting; did you mean {meant}?")
            continue
        if section in _NAMED_TABLES and inside:
            meant_by = [name for name in names if _fold(name) == _fold(inside[0])]
            if len(meant_by) > 1:
                problems.append(f"environment {variable}: {' or '.join(meant_by)}? Say it in {FILE} instead")
            inside[:1] = meant_by[:1] or inside[:1]
        *tables, last = (section, *inside)
        table = values
        for part in tables:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                problems.append(f"environment {variable}: another variable says that {part} is not a table")
                break
            table = inner
        else:
            table[last] = _from_json(environ[variable]) if section in _NAMED_TABLES else environ[variable]
            exact[(*tables, last)] = f"environment {variable}"
    return Layer("environment", values, exact=exact), problems


def find_file(start: Path, environ: Mapping[str, str]) -> File | None:
    """The configuration file: the one that ``BUSFRAME_CONFIG`` names, else the nearest one upwards of ``start``.

    In one folder ``busframe.toml`` goes before ``[tool.busframe]`` of ``pyproject.toml``.

    Raises:
        InvalidSettings: it cannot be read; names file and line.
    """
    if named := environ.get("BUSFRAME_CONFIG"):
        path = start / named
        if not path.is_file():
            raise InvalidSettings(
                f"environment BUSFRAME_CONFIG: there is no file {path}: correct or unset the variable"
            )
        return _read_pyproject(path) if path.name == "pyproject.toml" else File(path, _parse(path, _text(path)))
    for folder in (start, *start.parents):
        if (path := folder / FILE).is_file():
            return File(path, _parse(path, _text(path)))
        if (path := folder / "pyproject.toml").is_file() and (found := _read_pyproject(path)) is not None:
            return found
    return None


def _read_pyproject(path: Path) -> File | None:
    text = _text(path)
    if "busframe" not in text:  # somebody else's file, whose mistakes are not our business
        return None
    table = _parse(path, text).get("tool", {}).get("busframe")
    if table is not None and not isinstance(table, dict):
        raise InvalidSettings(f"{path}: tool.busframe must be a table: write [tool.busframe]")
    return None if table is None else File(path, table)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        raise InvalidSettings(f"{path} cannot be read: {failed}") from failed


def _parse(path: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failed:
        line = re.search(r"at line (\d+)", str(failed))
        number = int(line[1]) if line else len(text.splitlines())
        # No cause: a traceback would show the text around it, and that may be a password.
        raise InvalidSettings(f"{path}, line {number}: this is not TOML: {failed}") from None


def _fold(name: str) -> str:
    return re.sub(r"[-.]", "_", name).lower()


def _from_json(text: str) -> object:
    if text[0] not in "[{":
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
