"""``busframe describe``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from busframe.cli.options import app_argument, json_option, profile_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from busframe.bus import Bus
    from busframe.handling.handler import Handler
    from busframe.handling.plan import SourcePlan


@click.command(short_help="Show an application's handlers, sources and policies.")
@app_argument
@profile_option
@json_option
def describe(app: str | None, profile: str | None, as_json: bool) -> None:
    """Show what APP publishes to, consumes from and with what policies, and what it asks of a broker.

    With what is configured, and without connecting to anything.
    """
    from busframe.cli.application import load_app
    from busframe.cli.output import print_json

    application = load_app(app, profile=profile)
    application.bus.override({}, profile)
    plans = application.bus.plans()
    if as_json:
        print_json({"app": application.name, **as_data(application.bus, plans)})
    else:
        _print(application.name, application.bus, plans)


def as_data(bus: Bus, plans: Sequence[SourcePlan]) -> dict[str, Any]:
    """Everything, for JSON."""
    from busframe.cli.policies import needs
    from busframe.cli.publishing import destinations_of

    return {
        "destinations": [
            {"name": to.name, "kind": type(to).__name__.lower(), "types": [kind.__name__ for kind in to.types]}
            for to in destinations_of(bus)
        ],
        "sources": [_source_data(plan) for plan in plans],
        "needs": [
            {"source": plan.source.address, "capability": capability, "because": why}
            for plan in plans
            for capability, why in needs(plan)
        ],
    }


def _source_data(plan: SourcePlan) -> dict[str, Any]:
    from busframe.model.destination import Subscription

    data: dict[str, Any] = {
        "address": plan.source.address,
        "concurrency": plan.concurrency,
        "prefetch": plan.prefetch,
        "ordering": plan.ordering,
        "ack": plan.ack,
        "dead_letter": plan.dead_letter,
        "unmatched": plan.unmatched,
        "expired": plan.expired,
        "handlers": [_handler_data(handler) for handler in plan.handlers],
    }
    if isinstance(plan.source, Subscription):
        data |= {
            "where": {name: list(values) for name, values in plan.source.where.items()},
            "start": plan.source.start,
            "temporary": plan.source.temporary,
        }
    return data


def _handler_data(handler: Handler) -> dict[str, Any]:
    from busframe.cli.policies import retry_data

    return {
        "name": handler.name,
        "types": list(handler.signature.types),
        "catch_all": handler.signature.catch_all,
        "retry": retry_data(handler.retry),
        "timeout_s": handler.timeout_s,
        "middleware": [_name(around) for around in handler.middleware],
        "where": handler.where,
    }


def _print(name: str, bus: Bus, plans: Sequence[SourcePlan]) -> None:
    from busframe.cli.output import print_table, seconds
    from busframe.cli.policies import needs, retry_text
    from busframe.cli.publishing import destinations_of

    destinations = destinations_of(bus)
    click.echo(f"{name}\n")
    if not destinations and not plans:
        click.echo("It has no handlers and uses no destinations.")
        return
    print_table(
        ("destination", "kind", "types"),
        [
            (to.name, type(to).__name__.lower(), ", ".join(kind.__name__ for kind in to.types) or "any")
            for to in destinations
        ],
    )
    if not plans:
        return
    click.echo()
    print_table(
        ("source", "concurrency", "prefetch", "ordering", "ack", "unmatched", "where"),
        [
            (
                plan.source,
                plan.concurrency,
                plan.prefetch,
                plan.ordering,
                plan.ack,
                plan.unmatched,
                _where(plan),
            )
            for plan in plans
        ],
    )
    click.echo()
    print_table(
        ("handler", "source", "takes", "retry", "time-out", "defined in"),
        [
            (
                handler.name,
                plan.source,
                ", ".join((*handler.signature.types, *["anything"] * handler.signature.catch_all)),
                retry_text(handler.retry),
                seconds(handler.timeout_s),
                handler.where,
            )
            for plan in plans
            for handler in plan.handlers
        ],
    )
    asked = [(plan.source, capability, why) for plan in plans for capability, why in needs(plan)]
    if asked:
        click.echo()
        print_table(("source", "asks of the broker", "because of"), asked)


def _where(plan: SourcePlan) -> str | None:
    from busframe.model.destination import Subscription

    if not isinstance(plan.source, Subscription) or not plan.source.where:
        return None
    return ", ".join(f"{name}={'|'.join(values)}" for name, values in plan.source.where.items())


def _name(value: object) -> str:
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
