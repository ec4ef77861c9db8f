"""Options that several commands have."""

from collections.abc import Callable
from typing import Any, TypeAlias

import click

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

app_argument: Decorator = click.argument("app", required=False)
url_option: Decorator = click.option("--url", metavar="URL", help="The broker, instead of the configured one.")
profile_option: Decorator = click.option(
    "--profile", metavar="NAME", help="Use [profiles.NAME] of busframe.toml.  [env: BUSFRAME_PROFILE]"
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
