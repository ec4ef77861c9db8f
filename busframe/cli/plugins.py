"""``busframe plugins``."""

from dataclasses import asdict

import click

from busframe.cli.options import json_option


@click.command(short_help="List the transports that are installed.")
@json_option
def plugins(as_json: bool) -> None:
    """List the transports that are installed: name, distribution, version, URL schemes, state.

    One that cannot be used is listed with the reason, and hides no other.
    """
    from busframe.cli.output import print_json, print_table
    from busframe.registry import list_plugins

    states = list_plugins()
    if as_json:
        print_json([asdict(state) for state in states])
        return
    if not states:
        click.echo("No transport is installed: install one, such as busframe-rabbitmq.")
        return
    print_table(
        ("name", "distribution", "version", "schemes", "state"),
        [
            (
                state.name,
                state.distribution,
                state.version,
                " ".join(f"{scheme}://" for scheme in state.schemes),
                state.state,
            )
            for state in states
        ],
    )
    for state in states:
        if state.error:
            click.echo(f"\n{state.name}: {state.error}")
