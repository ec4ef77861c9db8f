"""``busframe worker``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from busframe.cli.options import app_argument, profile_option, url_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from busframe.handling.plan import SourcePlan
    from busframe.runtime.worker import Worker

_ALWAYS = ("handled", "retried", "dead_lettered")


@click.command(short_help="Run handlers.")
@app_argument
@click.option("--handlers", metavar="NAME,…", help="Only the sources of these handlers.")
@click.option("--until-idle", type=click.FloatRange(min=0), metavar="S", help="End after S seconds without a message.")
@click.option("--processes", type=click.IntRange(min=1), default=1, metavar="N", help="Run N workers side by side.")
@url_option
@profile_option
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--drain-timeout", type=click.FloatRange(min=0), metavar="S", help="How long handlers may finish at the end."
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer HTTP probes there: /ready and /live.",
)
@click.option("--process", type=int, hidden=True)
@click.pass_context
def worker(
    ctx: click.Context,
    app: str | None,
    handlers: str | None,
    until_idle: float | None,
    processes: int,
    url: str | None,
    profile: str | None,
    log_format: Literal["text", "json"],
    drain_timeout: float | None,
    health_port: int | None,
    process: int | None,
) -> None:
    """Run the handlers of APP until a signal, or until nothing comes in.

    The first SIGTERM or Ctrl-C lets running handlers finish, a second one stops at once. Exit codes: 0 ended in order,
    1 handlers had to be stopped, 2 the application or its configuration is wrong, 4 the broker was not reached.
    """
    import asyncio
    from contextlib import ExitStack

    from busframe.cli.application import load_app
    from busframe.cli.logs import configure_logging
    from busframe.cli.probe import listen, serve
    from busframe.cli.processes import end_with_parent
    from busframe.errors import ConfigurationError

    configure_logging(log_format)
    application = load_app(app, profile=profile)
    bus = application.bus
    bus.override({"url": url, "drain_timeout_s": drain_timeout}, profile)
    configuration = bus.configuration()
    if not bus.handlers:
        raise ConfigurationError(f"{application.name} has no handlers: register one with @bus.handle(source)")
    names = [name.strip() for name in (handlers or "").split(",") if name.strip()]
    plans = bus.plans(configuration)
    if processes > 1:
        # Everything that can be wrong without a broker has been found by now, and is said once.
        configuration.require_url()
        if health_port is not None:
            raise click.UsageError("--health-port is for one process: leave out --processes")
        ctx.exit(_run_processes(processes, ctx))
    report = Report(log_format, process)
    end_with_parent()
    if configuration.settings.scheme == "memory":
        report.warn_of_memory()
    tasks: list[asyncio.Task[None]] = []

    def started(running: Worker) -> None:
        if listener is not None:
            tasks.append(asyncio.get_running_loop().create_task(serve(listener, bus.health), name="busframe probe"))
        consumed = {source.address for source in running.sources}
        url = configuration.settings.url
        report.begin(application.name, url, [plan for plan in plans if plan.source.address in consumed])

    with ExitStack() as stack:
        listener = stack.enter_context(listen(health_port)) if health_port is not None else None
        code = bus.run(handlers=names, until_idle_s=until_idle, started=started)
    report.end(bus.statistics())
    ctx.exit(code)


def _run_processes(count: int, ctx: click.Context) -> int:
    from busframe.cli.processes import run_processes

    words = ["worker", *([ctx.params["app"]] if ctx.params["app"] else [])]
    for name in ("handlers", "until_idle", "url", "profile", "log_format", "drain_timeout"):
        if ctx.params[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(ctx.params[name])]
    return run_processes(count, words)


class Report:
    """What a worker says about itself at start and end: tables, or records where the log is JSON."""

    def __init__(self, style: Literal["text", "json"], process: int | None) -> None:
        import logging

        self._process = process
        self._tables = style == "text"
        self._logger = logging.getLogger("busframe.worker")

    def warn_of_memory(self) -> None:
        """Say that nobody else can reach it."""
        self._logger.warning(
            "memory:// lives inside this process: no other process can publish to it, and its messages end with it"
        )

    def begin(self, app: str, url: str | None, plans: Sequence[SourcePlan]) -> None:
        """Say what is consumed, from where and how."""
        from busframe.cli.policies import retry_text
        from busframe.config import mask_url

        where = mask_url(url) if url else "a transport of its own"
        if not self._tables:
            self._logger.info("started", extra={"app": app, "url": where, "sources": [str(p.source) for p in plans]})
            return
        if self._process not in (None, 1):  # the others do the same
            return
        from busframe.cli.output import print_table

        click.echo(f"{app} on {where}\n")
        print_table(
            ("source", "handlers", "concurrency", "prefetch", "ordering", "retry"),
            [
                (
                    plan.source,
                    ", ".join(handler.name for handler in plan.handlers),
                    plan.concurrency,
                    plan.prefetch,
                    plan.ordering,
                    "; ".join(dict.fromkeys(retry_text(handler.retry) for handler in plan.handlers)),
                )
                for plan in plans
            ],
        )
        click.echo()

    def end(self, statistics: Mapping[str, Mapping[str, int]]) -> None:
        """Say what was done, for each source."""
        if not self._tables:
            for source, counts in statistics.items():
                self._logger.info("ended", extra={"source": source, **counts})
            return
        if not statistics:
            return
        from busframe.cli.output import print_table

        names = [
            name
            for name in next(iter(statistics.values()))
            if name in _ALWAYS or (name != "received" and any(counts[name] for counts in statistics.values()))
        ]
        click.echo(f"\nprocess {self._process}" if self._process else "")
        print_table(
            ("source", *(name.replace("_", "-") for name in names)),
            [(source, *(counts[name] for name in names)) for source, counts in statistics.items()],
        )
