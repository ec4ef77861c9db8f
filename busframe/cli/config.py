"""``busframe config``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from busframe.cli.options import app_argument, json_option, profile_option, url_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from busframe.config import Configuration


@click.command(short_help="Show the effective settings and where each came from.")
@app_argument
@url_option
@profile_option
@json_option
def config(app: str | None, url: str | None, profile: str | None, as_json: bool) -> None:
    """Show the effective settings and where each came from, secrets hidden.

    With APP, what the application itself says is included. Without any APP, what files and environment say. Connects
    to nothing.
    """
    from busframe.cli.output import print_json, print_table

    configuration = _configuration(app, url, profile)
    shown = list(effective(configuration))
    if as_json:
        settings = [{"key": key, "value": value, "from": origin} for key, value, origin in shown]
        print_json({"file": configuration.file, "profile": configuration.profile, "settings": settings})
    else:
        click.echo(f"file     {configuration.file or 'none'}\nprofile  {configuration.profile or 'none'}\n")
        print_table(("setting", "value", "from"), [(key, _text(value), origin) for key, value, origin in shown])
    _check_transport(configuration)


def effective(configuration: Configuration) -> Iterator[tuple[str, object, str]]:
    """Each setting that counts: (dotted key, value with secrets hidden, origin)."""
    from busframe.config import mask
    from busframe.config.sources import dotted

    settings = configuration.settings.model_dump()

    def leaves(table: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
        for name, value in table.items():
            key = dotted((*above, name))
            if key in configuration.origins and not (isinstance(value, dict) and value):
                yield key, mask(name, value), configuration.origins[key]
            elif isinstance(value, dict):
                yield from leaves(value, (*above, name))

    yield from leaves(settings, ())


def _configuration(app: str | None, url: str | None, profile: str | None) -> Configuration:
    from busframe.cli.application import load_app
    from busframe.config import load

    if app is None:
        configuration = load({}, {"url": url}, profile=profile)
        if configuration.settings.app is None:
            return configuration
    bus = load_app(app, profile=profile).bus
    bus.override({"url": url}, profile)
    return bus.configuration()


def _check_transport(configuration: Configuration) -> None:
    """Raise what is wrong with the URL's options and the plugin's table: nothing else looks before a bus opens."""
    from busframe.config import transport_settings
    from busframe.registry import find_plugin

    settings = configuration.settings
    if settings.scheme is not None:
        transport_settings(find_plugin(settings.scheme), settings, configuration.origins)


def _text(value: object) -> object:
    return None if value in (None, "", {}) else value
