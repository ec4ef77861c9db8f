"""The settings of the chosen plugin: the URL, the options in its query, and the plugin's table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from busframe.config.problems import close_names, unknown_key, wrong_value
from busframe.config.settings import Settings
from busframe.config.sources import dotted
from busframe.errors import InvalidSettings

if TYPE_CHECKING:
    from busframe.spi.plugin import Plugin

S = TypeVar("S", bound=BaseModel)


def transport_settings(plugin: "Plugin[S]", settings: Settings, origins: Mapping[str, str] = MappingProxyType({})) -> S:
    """What a plugin is created with.

    Its field ``url`` gets the URL without the query; the query's options and ``[transports.<name>]`` fill the others.
    An option that is in both has the query's value: a URL is said for one deployment, a table for all. An option that
    the query repeats is a list. Tables of other plugins are not looked at.

    Args:
        plugin: the one that takes the URL's scheme.
        settings: of the bus.
        origins: where each was said, for the errors.

    Raises:
        InvalidSettings: with all problems, each naming the option, where it was said, and what is wrong.
    """
    table = settings.transports.get(plugin.name, {})
    url, query, fragment = _split(settings.url or "")
    known = [name for name in _options(plugin.settings) if name != "url"]
    problems = [] if fragment is None else [f"{origins.get('url', 'url')}: the URL has a '#': write it as %23"]
    takes_any = plugin.settings.model_config.get("extra") == "allow"

    def where(name: str) -> str:
        if name in query or name == "url":
            return f"{origins.get('url', 'url')}, in the URL"
        return origins.get(dotted(("transports", plugin.name, name)), "") or f"[transports.{plugin.name}]"

    for name in {**query, **table}:
        if name == "url":
            said = "the URL's query" if name in query else f"[transports.{plugin.name}]"
            problems.append(f'{said}: url is said once, at the top: url = "{plugin.schemes[0]}://…"')
        elif name not in known and not takes_any:
            key = (name,) if name in query else ("transports", plugin.name, name)
            problems.append(f"{where(name)}: {unknown_key(key, known)}")
    problems += [
        f"{_table_origin(name, origins)}: the plugin is called {plugin.name}: write [transports.{plugin.name}] instead "
        f"of [transports.{name}]"
        for name in settings.transports
        if name != plugin.name and (name in plugin.schemes or close_names(name, [plugin.name]))
    ]
    given: dict[str, object] = {name: value for name, value in {**table, **query}.items() if name in known or takes_any}
    if "url" in plugin.settings.model_fields:
        given["url"] = url
    made: S | None = None
    try:
        made = plugin.settings.model_validate(given)
    except ValidationError as failed:
        for error in failed.errors(include_url=False):
            loc = error["loc"] or (plugin.name,)
            path: tuple[object, ...] = (
                loc if loc[0] in query or loc[0] == "url" else ("transports", plugin.name, *error["loc"])
            )
            problems.append(f"{where(str(loc[0]))}: {dotted(path)} {wrong_value({**error, 'loc': loc})}")
    if problems or made is None:
        raise InvalidSettings(problems)  # without a cause: pydantic's text repeats the values, passwords too
    return made


def _split(url: str) -> tuple[str, dict[str, object], str | None]:
    """A URL without its query, the query's options, and the fragment if there is one."""
    base, _, query = url.partition("?")
    options: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.partition("#")[0], keep_blank_values=True):
        options.setdefault(name, []).append(value)
    fragment = url.partition("#")[2] if "#" in url else None  # urlsplit refuses what some brokers take: many hosts
    flat: dict[str, object] = {name: values[0] if len(values) == 1 else values for name, values in options.items()}
    return base, flat, fragment


def _options(model: type[BaseModel]) -> list[str]:
    """All names by which a model's fields can be said."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias if isinstance(field.validation_alias, str) else field.alias
        by_name = (
            alias is None or model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
        )
        names += [name] * bool(by_name) + [alias] * bool(alias)  # type: ignore[list-item]
    return names


def _table_origin(name: str, origins: Mapping[str, str]) -> str:
    prefix = dotted(("transports", name))
    return next((origin for key, origin in origins.items() if key.startswith(prefix + ".")), "configuration")
