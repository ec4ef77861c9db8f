"""``busframe publish``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from busframe.cli.options import profile_option, url_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from busframe.bus import Bus
    from busframe.cli.pipeline import Bodies, Pipeline
    from busframe.model.destination import Destination


@click.command(short_help="Send messages.")
@click.argument("words", nargs=-1, required=True, metavar="[APP|URL] DESTINATION [BODY|-|@FILE]")
@click.option("--type", "type_name", metavar="NAME", help="Which of the destination's types the body is.")
@click.option("--key", help="Messages of one key keep their order where the consumer asks for it.")
@click.option("--header", "headers", multiple=True, metavar="K=V", help="A header; may be repeated.")
@click.option("--delay", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Deliver after S seconds.")
@click.option(
    "--ttl", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Not to be handled after S seconds."
)
@click.option("--count", type=click.IntRange(min=1), default=1, metavar="N", help="Send the body N times.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Try each message for S seconds, through an outage.",
)
@url_option
@profile_option
def publish(
    words: tuple[str, ...],
    type_name: str | None,
    key: str | None,
    headers: tuple[str, ...],
    delay: float,
    ttl: float | None,
    count: int,
    timeout: float,
    url: str | None,
    profile: str | None,
) -> None:
    """Send a message and print its id when the broker has confirmed it.

    BODY is the text itself, @FILE its content; "-" reads lines of JSON from standard input, each a message. A body is
    validated where APP declares the destination's types. With a URL, or without any APP, DESTINATION is queue:NAME or
    topic:NAME.

    A message whose confirmation is lost with the connection is sent again under the same id, so it may be there twice;
    how many may be is said at the end.

    Exit codes: 0 all confirmed, 1 one was not, 2 usage or configuration, 4 the broker was not reached.
    """
    from busframe.cli.publishing import payload_maker

    target, name, body = _split(words)
    if body == "-" and count != 1:
        raise click.UsageError("--count repeats one body: it cannot be said with '-'")
    bus, destination = _bus_and_destination(target, name, url, profile)
    options = {"key": key, "headers": _headers(headers), "delay_s": delay, "ttl_s": ttl}
    asyncio.run(_send(bus, destination, payload_maker(destination, type_name), body, count, options, timeout))


def _split(words: tuple[str, ...]) -> tuple[str | None, str, str]:
    """(APP or URL if there is one, destination, body)."""
    from busframe.cli.application import looks_like_app

    target = words[0] if "://" in words[0] or looks_like_app(words[0]) else None
    rest = words[1:] if target is not None else words
    match rest:
        case ():
            raise click.UsageError("DESTINATION is missing: busframe publish [APP|URL] DESTINATION [BODY|-|@FILE]")
        case (name,):
            return target, name, ""
        case (name, body):
            return target, name, body
    no_app = f"; and {words[0]!r} is no APP (module:attribute) or URL" if target is None else ""
    raise click.UsageError(f"{len(words)} words are too many: quote the BODY{no_app}")


def _bus_and_destination(
    target: str | None, name: str, url: str | None, profile: str | None
) -> tuple[Bus, Destination[Any]]:
    from busframe.bus import Bus
    from busframe.cli.application import load_app
    from busframe.cli.publishing import ad_hoc_destination, find_destination
    from busframe.config import load

    is_url = target is not None and "://" in target
    without_app = target is None and load({}, {"url": url}, profile=profile).settings.app is None
    if is_url or (without_app and (url or name.startswith(("queue:", "topic:")))):
        # Nothing is declared: a mistyped name is an error then, and not a new queue that nobody consumes.
        bus = Bus()
        bus.override({"url": target or url, "topology": "assume"}, profile)
        _check_url(bus)
        return bus, ad_hoc_destination(name)
    application = load_app(target, profile=profile)
    application.bus.override({"url": url}, profile)
    _check_url(application.bus)
    return application.bus, find_destination(application.bus, name, application.name)


def _check_url(bus: Bus) -> None:
    from busframe.errors import ConfigurationError

    configuration = bus.configuration()
    if configuration.settings.scheme == "memory":
        raise ConfigurationError(
            "memory:// lives inside one process: what this command publishes would reach nobody. Publish in the "
            "program that runs the handlers, or choose a broker: BUSFRAME_URL=amqp://localhost, or --url"
        )


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for header in given:
        name, equals, value = header.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{header!r} is not K=V", param_hint="'--header'")
        headers[name] = value
    return headers


async def _send(
    bus: Bus,
    destination: Destination[Any],
    make: Callable[[bytes], object],
    body: str,
    count: int,
    options: dict[str, Any],
    timeout_s: float,
) -> None:
    from busframe.cli.persistence import PersistentPublisher
    from busframe.cli.pipeline import Pipeline, lines_of, repeated

    payload = make(_content(body)) if body != "-" else None  # wrong ones are refused before anything is connected
    send = PersistentPublisher(bus, destination, options, timeout_s)
    async with bus:
        if body != "-" and count == 1:
            click.echo((await send(payload)).id)
            return
        pipeline = Pipeline(send, make, _printed)
        bodies = lines_of(sys.stdin.buffer) if body == "-" else repeated(_content(body), count)
        await _with_progress(pipeline, bodies, None if body == "-" else count)
    if send.doubtful:
        click.echo(f"{send.doubtful} may be there twice: their first confirmation was lost on the way", err=True)
    pipeline.report(str(destination))


async def _with_progress(pipeline: Pipeline, bodies: Bodies, total: int | None) -> None:
    if not sys.stderr.isatty():
        await pipeline.run(bodies)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("confirmed"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # The ids go on to standard output; only where that is the same terminal they must not cross the bar.
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty(), transient=True) as progress:
        task = progress.add_task("", total=total)
        pipeline.progress = lambda confirmed: progress.update(task, completed=confirmed)
        await pipeline.run(bodies)


def _printed(message_id: str) -> None:
    sys.stdout.write(f"{message_id}\n")


def _content(body: str) -> bytes:
    if not body.startswith("@"):
        return body.encode()
    try:
        return Path(body[1:]).read_bytes()
    except OSError as failed:
        raise click.BadParameter(f"{body[1:]} cannot be read: {failed.strerror}", param_hint="'BODY'") from failed
