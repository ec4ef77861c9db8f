"""From what the sources say to settings, each of which knows where it came from."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from busframe.config.problems import explain
from busframe.config.settings import Settings
from busframe.config.sources import FILE, File, Key, Layer, dotted, find_file, from_environment, from_options, plain
from busframe.errors import ConfigurationError, InvalidSettings


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where each was said.

    Attributes:
        settings: what counts.
        origins: dotted key → ``option --url``, ``argument of Bus``, ``environment BUSFRAME_URL``, ``profile
            production``, ``busframe.toml`` or ``default``. Every value that was said has one, inside tables too, and
            every setting.
        file: the configuration file, if there is one.
        profile: the profile that was chosen, if one was.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None = None
    profile: str | None = None

    def require_url(self) -> str:
        """The URL of the broker.

        Raises:
            ConfigurationError: nobody said one; shows the line to write. There is no default: a deployment that lost
                its URL must not confirm messages into the memory of one process.
        """
        if self.settings.url is not None:
            return self.settings.url
        looked = f"{self.file} does not say it" if self.file else f"there is no {FILE} here or in a parent folder"
        raise ConfigurationError(
            f'no broker is configured ({looked}): write url = "amqp://localhost" (or "memory://" to try things in one '
            f'process) into {FILE}, set BUSFRAME_URL=amqp://localhost, or say Bus("amqp://localhost")'
        )


def load(
    arguments: Mapping[str, object],
    options: Mapping[str, object] = MappingProxyType({}),
    *,
    profile: str | None = None,
    start: Path | None = None,
    environ: Mapping[str, str] | None = None,
    names: Iterable[str] = (),
) -> Configuration:
    """Read all sources and merge them, tables deeply.

    Args:
        arguments: of ``Bus``: its configuration mapping, and ``url``.
        options: of the command line, by the name of the setting; None: not given.
        profile: which profile of the file; None: what ``BUSFRAME_PROFILE`` says, else none.
        start: the folder to look for the file from; None: the working directory.
        environ: the environment; None: the process's.
        names: of handlers and destinations in the code, so that ``BUSFRAME_HANDLERS__BILLING_CHARGE__…`` finds
            ``billing.charge``.

    Raises:
        InvalidSettings: with all problems, each naming where it was said, the key, and what is wrong.
    """
    environ = os.environ if environ is None else environ
    file = find_file((start or Path.cwd()).absolute(), environ)
    chosen, chosen_by = (profile, "option --profile") if profile else (environ.get("BUSFRAME_PROFILE"), "")
    in_file, profiles, problems = _file_layers(file)
    said = from_options(options), Layer("argument of Bus", plain(arguments))
    selected = [profiles[chosen]] if chosen in profiles else []
    if chosen and not selected:
        problems.append(_unknown_profile(chosen, chosen_by or "environment BUSFRAME_PROFILE", file, list(profiles)))
    weaker = [*selected, *in_file]
    named = {*names, *(name for layer in (*said, *weaker) for name in _names_in(layer))}
    environment, wrong = from_environment(environ, named, Settings.model_fields)
    problems += wrong
    layers = [*said, environment, *weaker]
    settings: Settings | None = None
    try:
        settings = _merge(layers)
    except ValidationError as failed:
        problems += explain(failed, layers)
    # A mistake in a profile that is not used today would be found where it hurts: in production.
    for other in profiles.values():
        if other not in selected:
            try:
                _merge([other])
            except ValidationError as failed:
                problems += explain(failed, [other])
    if problems or settings is None:
        raise InvalidSettings(problems)
    return Configuration(
        settings,
        MappingProxyType(_origins(settings, layers)),
        file.path if file else None,
        chosen if selected else None,
    )


class _LayerSource(PydanticBaseSettingsSource):
    def __init__(self, settings: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._layer.values  # whole, so that unknown keys are seen


def _merge(layers: Sequence[Layer]) -> Settings:
    class Layered(Settings):  # pydantic-settings asks the class for its sources
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: object, **__: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(_LayerSource(settings_cls, layer) for layer in layers)

    return Settings(**Layered().model_dump(exclude_unset=True))


def _file_layers(file: File | None) -> tuple[list[Layer], dict[str, Layer], list[str]]:
    """The file's own layer, one for each of its profiles, and what is wrong with its shape."""
    if file is None:
        return [], {}, []
    where = file.path.name if file.path.parent == Path.cwd() else str(file.path)
    values = dict(file.table)
    profiles = values.pop("profiles", {})
    own = [Layer(file.path.name, values, where)]
    if not isinstance(profiles, dict):
        return own, {}, [f"{where}: profiles must be a table: write [profiles.production]"]
    problems = [
        f"{where}: profiles.{name} must be a table: write [profiles.{name}]"
        for name, table in profiles.items()
        if not isinstance(table, dict)
    ]
    layers = {
        name: Layer(f"profile {name}", table, f"{where}, profile {name}")
        for name, table in profiles.items()
        if isinstance(table, dict)
    }
    return own, layers, problems


def _unknown_profile(chosen: str, chosen_by: str, file: File | None, known: list[str]) -> str:
    if file is None:
        return f"{chosen_by}: there is no profile {chosen!r}, because there is no {FILE} here or in a parent folder"
    if not known:
        return f"{chosen_by}: {file.path} has no profile {chosen!r}: write [profiles.{chosen}] there"
    close = get_close_matches(chosen, known, n=1)
    it = f"did you mean {close[0]!r}? It" if close else "it"
    return f"{chosen_by}: {file.path} has no profile {chosen!r}; {it} has {', '.join(sorted(known))}"


def _names_in(layer: Layer) -> list[str]:
    tables = (layer.values.get(section) for section in ("transports", "destinations", "handlers"))
    return [name for table in tables if isinstance(table, dict) for name in table]


def _origins(settings: Settings, layers: Sequence[Layer]) -> dict[str, str]:
    origins = dict.fromkeys(Settings.model_fields, "default")
    for key in _leaves(settings.model_dump(exclude_unset=True)):
        origins[dotted(key)] = next(layer.origin_of(key) for layer in layers if layer.says(key))
        if len(key) > 1:
            origins.pop(key[0], None)  # the table itself: what is in it says more
    return origins


def _leaves(values: Mapping[str, Any], above: Key = ()) -> Iterable[Key]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name)
