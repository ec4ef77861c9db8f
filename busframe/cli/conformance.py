"""``busframe conformance``."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

import click

from busframe.cli.options import json_option

if TYPE_CHECKING:
    from busframe.conformance import Check, Harness, Result


@click.command(short_help="Check a broker against the contract.")
@click.argument("url", metavar="URL")
@click.option("--only", default="", metavar="A,F7", help="Only these letters or checks.")
@click.option("--tier", "tiers", metavar="C,K,X,S", default="C,K,X", show_default=True, help="Only these tiers.")
@click.option(
    "--soak-s",
    metavar="S",
    type=click.FloatRange(min=0),
    default=180,
    show_default=True,
    help="How long each check of tier S goes on, in seconds.",
)
@click.option("--seed", metavar="N", type=int, help="Of the faults in tier S: with the same one the same happen.")
@json_option
def conformance(url: str, only: str, tiers: str, soak_s: float, seed: int | None, as_json: bool) -> None:
    """Run the conformance kit against the broker at URL, and say what holds there.

    The kit makes queues and topics whose names begin with "kit-", and leaves them: point it at a broker, or a virtual
    host of one, that is for trying things out. It cuts no connections that are not the kit's own, and stops no server.

    Tier C is for every transport, K for those that claim it, X needs a fault; S takes long, and runs only where it is
    named.

    Exit codes: 0 nothing failed, 1 a check failed, 2 usage, 4 the broker was not reached.
    """
    from busframe.cli.output import print_json
    from busframe.conformance.harnesses import find_harness
    from busframe.conformance.report import as_json as json_report

    chosen = _chosen(_listed(only), _listed(tiers))
    harness = find_harness(url)
    harness.soak_s = soak_s
    if any(check.tier == "S" for check in chosen):
        harness.seed = random.randrange(2**32) if seed is None else seed
        click.echo(f"seed {harness.seed}", err=True)
    logging.getLogger().addHandler(logging.NullHandler())  # checks fail on purpose, and what is logged then is no news
    started = time.monotonic()
    results = asyncio.run(_run(url, harness, chosen, quiet=as_json))
    if as_json:
        print_json(json_report(harness.name, results))
    else:
        _print(harness.name, results, time.monotonic() - started)
    if any(result.outcome == "failed" for result in results):
        raise SystemExit(1)


def _listed(text: str) -> list[str]:
    return [name.strip().upper() for name in text.split(",") if name.strip()]


def _chosen(only: list[str], tiers: list[str]) -> list[Check]:
    from busframe.conformance.runner import TIERS, select

    for tier in tiers:
        if tier not in TIERS:
            raise click.BadParameter(f"there is no tier {tier}, but {', '.join(TIERS)}", param_hint="'--tier'")
    try:
        chosen = select(only, tiers)
    except KeyError as unknown:
        (name,) = unknown.args
        near = [check.id for check in select() if check.letter == name.rstrip("0123456789")]
        there = near or sorted({check.letter for check in select()})
        raise click.BadParameter(
            f"there is no check {name}; there are {', '.join(there)}", param_hint="'--only'"
        ) from None
    if not chosen:
        raise click.UsageError(f"of {','.join(only) or 'all checks'} none is of tier {','.join(tiers) or '(none)'}")
    return chosen


async def _run(url: str, harness: Harness, chosen: list[Check], *, quiet: bool) -> list[Result]:
    from busframe.conformance.harnesses import reach
    from busframe.conformance.runner import run

    await reach(url, harness)
    results = []
    async for result in run(harness, chosen):
        results.append(result)
        if not quiet:
            click.echo("." if result.outcome == "passed" else result.outcome[0].upper(), nl=False, err=True)
    if not quiet:
        click.echo(err=True)
    return results


def _print(name: str, results: list[Result], took_s: float) -> None:
    from busframe.cli.output import print_table
    from busframe.conformance.report import counts

    print_table(
        ("check", "tier", "outcome", "s", "says"),
        [(r.check.id, r.check.tier, r.outcome, f"{r.seconds:.1f}", r.check.says) for r in results],
    )
    for result in results:
        if result.outcome in ("failed", "not runnable"):
            click.echo(f"\n{result.check.id} {result.outcome}: {result.detail.strip()}")
        for part in result.left_out:
            click.echo(f"\n{result.check.id} {result.outcome} without {part}")
    ends = ", ".join(f"{count} {outcome}" for outcome, count in counts(results).items())
    click.echo(f"\n{name}: {ends}, in {took_s:.0f} s")
