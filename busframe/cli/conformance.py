"""``busframe conformance``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from busframe.cli.options import json_option

if TYPE_CHECKING:
    from busframe.conformance import Check, Harness, Result


@click.command(short_help="Check a broker against the contract.")
@click.argument("url", metavar="URL")
@click.option("--only", metavar="A,F7", help="Only these letters or checks.")
@click.option("--tier", "tiers", metavar="C,K,X", default="C,K,X", show_default=True, help="Only these tiers.")
@json_option
def conformance(url: str, only: str | None, tiers: str, as_json: bool) -> None:
    """Run the conformance kit against the broker at URL, and say what holds there.

    The kit makes queues and topics whose names begin with "kit-", and leaves them: point it at a broker, or a virtual
    host of one, that is for trying things out. It cuts no connections that are not the kit's own, and stops no server.

    Exit codes: 0 nothing failed, 1 a check failed, 2 usage, 4 the broker was not reached.
    """
    try:
        from busframe.conformance.runner import select
    except ImportError as missing:  # hypothesis and pytest are no dependencies of a worker
        raise click.UsageError(f"the kit needs {missing.name}: install busframe[conformance]") from missing
    from busframe.cli.output import print_json, print_table
    from busframe.conformance.harnesses import find_harness
    from busframe.conformance.report import as_json as json_report
    from busframe.conformance.report import counts

    wanted = [name.strip() for name in only.split(",")] if only else []
    try:
        chosen = select(wanted, [tier.strip() for tier in tiers.split(",")])
    except KeyError as unknown:
        raise click.BadParameter(f"there is no check {unknown.args[0]}", param_hint="'--only'") from unknown
    harness = find_harness(url)
    results = asyncio.run(_run(harness, chosen, quiet=as_json))
    if as_json:
        print_json(json_report(harness.name, results))
    else:
        click.echo()
        print_table(
            ("check", "tier", "outcome", "s", "says"),
            [(r.check.id, r.check.tier, r.outcome, f"{r.seconds:.1f}", r.check.says) for r in results],
        )
        for result in results:
            if result.outcome in ("failed", "not runnable"):
                click.echo(f"\n{result.check.id} {result.outcome}: {result.detail.strip()}")
        click.echo("\n" + harness.name + ": " + ", ".join(f"{n} {what}" for what, n in counts(results).items()))
    if any(result.outcome == "failed" for result in results):
        raise SystemExit(1)


async def _run(harness: Harness, chosen: list[Check], *, quiet: bool) -> list[Result]:
    from busframe.conformance.runner import run

    results = []
    async for result in run(harness, chosen):
        results.append(result)
        if not quiet:
            click.echo("." if result.outcome == "passed" else result.outcome[0].upper(), nl=False, err=True)
    return results
