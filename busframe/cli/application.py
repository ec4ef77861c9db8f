"""APP: from ``module:attribute`` to the bus, and if that fails, what was found instead."""

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

import click

from busframe.errors import BusframeError, ConfigurationError

if TYPE_CHECKING:
    from busframe.bus import Bus

_APP = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
_NOT_THE_USERS = (
    *(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).resolve().parent.parent),
)


@dataclass(frozen=True, slots=True)
class Application:
    """A bus and how it was named."""

    name: str
    bus: "Bus"


def looks_like_app(text: str) -> bool:
    """Whether something on the command line is an APP, and no destination or URL."""
    return bool(_APP.fullmatch(text)) and not text.startswith(("queue:", "topic:"))


def load_app(app: str | None, *, profile: str | None = None) -> Application:
    """Import the application that was named, or else the configured one.

    The working directory goes to the front of the import path; for a configured name, after it the folder of the
    configuration file.

    Raises:
        ConfigurationError: there is no such bus; says what was found instead.
    """
    folders = [Path.cwd()]
    if app is None:
        from busframe.config import load

        configuration = load({}, profile=profile)
        app = configuration.settings.app
        if app is None:
            said = f"{configuration.file} does not say app" if configuration.file else "there is no busframe.toml"
            raise ConfigurationError(
                f'no APP was given, and {said}: give module:attribute, such as shop:bus, or write app = "shop:bus" '
                "into busframe.toml"
            )
        folders += [configuration.file.parent] if configuration.file else []
    for folder in reversed(folders):
        if sys.path[:1] != [str(folder)]:
            sys.path.insert(0, str(folder))
    invalidate_caches()
    named = _APP.fullmatch(app)
    if named is None:
        raise ConfigurationError(f"APP {app!r} is not module:attribute{_meant(app)}")
    module = _import(named[1])
    return Application(app, _bus_in(module, named[2]))


def _meant(app: str) -> str:
    name, _, attribute = app.partition(":")
    name = name.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        return ": write it like shop:bus"
    if not attribute:
        try:
            attribute = " or ".join(_buses(_import(name))) or "bus"
        except ConfigurationError:
            attribute = "bus"
    return f": did you mean {name}:{attribute}?"


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except BusframeError as error:  # a handler's signature, an invalid name: it says all that is to be said
        place = _place(error)
        problems = error.problems if isinstance(error, ConfigurationError) else (str(error),)
        raise ConfigurationError([f"{place}{problem}" for problem in problems]) from error
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(_not_there(error.name)) from error
        raise _import_failed(name, error) from error
    except SystemExit as error:
        raise ConfigurationError(
            f'importing {name} ended the program{_at(error)}: put what runs it under if __name__ == "__main__"'
        ) from error
    except Exception as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> ConfigurationError:
    """Shows the traceback of the user's own frames; what the machinery around them did helps nobody."""
    shown = traceback.TracebackException.from_exception(error)
    cause: traceback.TracebackException | None = shown
    while cause is not None:
        cause.stack = traceback.StackSummary.from_list([frame for frame in cause.stack if _is_users(frame.filename)])
        cause = cause.__cause__ or cause.__context__
    click.echo("".join(shown.format()), err=True, nl=False)
    said = error.msg if isinstance(error, SyntaxError) else error  # the text of a SyntaxError ends with its place
    return ConfigurationError(f"importing {name} failed: {type(error).__name__}: {said}{_at(error)}")


def _not_there(name: str) -> str:
    folder = Path.cwd()
    here = sorted(path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    close = get_close_matches(name, here, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    found = f"Found there: {', '.join(here[:10])}{', …' * (len(here) > 10)}" if here else "No module was found there"
    return f"there is no module {name!r} in {folder}, nor is one installed; {hint}{found}"


def _bus_in(module: ModuleType, attribute: str) -> "Bus":
    from busframe.bus import Bus

    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{module.__name__} has no {attribute!r}; {_instead(module, attribute)}")
        found = getattr(found, part)
    if isinstance(found, Bus):
        return found
    raise ConfigurationError(
        f"{module.__name__}:{attribute} is not a Bus but {_what(found)}; {_instead(module, attribute)}"
    )


def _what(found: object) -> str:
    name = getattr(found, "__name__", None)
    if name is not None and isinstance(found, type | FunctionType | ModuleType):
        return f"the {'class' if isinstance(found, type) else type(found).__name__} {name}"
    return f"{_short(repr(found))} ({type(found).__name__})"


def _instead(module: ModuleType, attribute: str) -> str:
    buses = _buses(module)
    if buses:
        close = get_close_matches(attribute, buses, n=1)
        best = close[0] if close else buses[0]
        return f"it has the bus{'es' * (len(buses) > 1)} {', '.join(buses)}: write {module.__name__}:{best}"
    return f"it has no bus at all: write bus = Bus() in {Path(module.__file__ or module.__name__).name}"


def _buses(module: ModuleType) -> list[str]:
    from busframe.bus import Bus

    return [name for name, value in vars(module).items() if isinstance(value, Bus)]


def _place(error: BaseException) -> str:
    at = _at(error)
    return f"{at[2:-1]}: " if at else ""


def _at(error: BaseException) -> str:
    """`` (shop.py, line 3)``: the last line of the user's own code."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    frames = list(_users_frames(error))
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _users_frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    return (frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename))


def _is_users(filename: str) -> bool:
    return not filename.startswith("<") and not str(Path(filename).resolve()).startswith(_NOT_THE_USERS)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
