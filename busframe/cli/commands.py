"""Which commands there are, and what becomes of their errors."""

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from busframe.cli.failure import exit_code, explanation
from busframe.errors import BusframeError

COMMANDS = ("worker", "publish", "describe", "config", "plugins", "conformance")


class Commands(click.Group):
    """Commands that are imported when they are asked for: ``busframe.cli.<name>`` has a command of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, the most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, imported."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"busframe.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named; a mistyped one names the close ones."""
        close = get_close_matches(args[0], COMMANDS, n=2)
        if close and args[0] not in COMMANDS:
            ctx.fail(f"there is no command {args[0]!r}; did you mean {' or '.join(close)}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of ours is one message without a traceback."""
        try:
            return super().invoke(ctx)
        except BusframeError as error:
            click.echo(f"Error: {explanation(error)}", err=True)
            ctx.exit(exit_code(error))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="busframe")
def busframe() -> None:
    """Run message handlers and look after their messages, on whatever broker is configured.

    APP is module:attribute, such as shop:bus; without it, what busframe.toml says as app.

    Exit codes: 0 done, 1 failed or forced, 2 usage or configuration, 4 broker not reached.
    """
