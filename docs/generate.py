"""Writes the pages that follow from the code: errors, settings, commands, conformance. `python docs/generate.py`.

A test compares the pages with what this would write.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

import busframe.errors
from busframe.cli.commands import COMMANDS
from busframe.cli.commands import busframe as group
from busframe.config import HandlerSettings, RetrySettings, Settings
from busframe.logic.retry import Retry
from busframe.registry import find_plugin, list_plugins

if TYPE_CHECKING:
    from busframe.conformance import Check

REFERENCE = Path(__file__).parent / "reference"
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):\n((?: .*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def pages() -> dict[Path, str]:
    """Each generated page with its text."""
    return {
        REFERENCE / "errors.md": errors(),
        REFERENCE / "settings.md": settings(),
        REFERENCE / "command-line.md": command_line(),
        REFERENCE / "conformance.md": conformance(),
    }


# ---------------------------------------------------------------------------------------------------- conformance


def conformance() -> str:
    """How each check ends on each transport, and which mutants prove it.

    The classes of tests say how a check is to end, and fail where it does not; so the page says what CI has shown.
    """
    from busframe.conformance import select
    from busframe.conformance.mutants import MUTANTS
    from plugins.kafka.tests.test_conformance import KafkaConformance
    from plugins.nats.tests.test_conformance import TestNATS, TestOlderNATS
    from plugins.rabbitmq.tests.test_conformance import TestOlderRabbitMQ, TestRabbitMQ
    from tests.conformance.test_memory import TestMemory

    def mutants(check: "Check") -> str:
        return str(sum(check.id in mutant.caught_by for mutant in MUTANTS.values()) or "")

    classes = {
        "memory": TestMemory,
        "RabbitMQ 4.0": TestRabbitMQ,
        "RabbitMQ 3.10": TestOlderRabbitMQ,
        "Kafka 4.3": KafkaConformance,
        "NATS 2.15": TestNATS,
        "NATS 2.10": TestOlderNATS,
    }
    lines = [
        "# Conformance",
        "",
        "What every transport has to keep, as checks that anybody can run: `busframe conformance URL`. Tier C is for",
        "every transport, K for those that claim it, X needs a fault. *Not claimed* means that the transport was shown",
        "to refuse it; *not runnable* means that it was not shown, and counts as nothing; *passed in part* means that",
        "one part was not shown: a run says which, and why. The tests demand exactly these outcomes, on real servers:",
        "RabbitMQ 4.0.5, Kafka 4.3.1 and nats-server 2.15.2; and without some that take long, RabbitMQ 3.10.8 and",
        "nats-server 2.10.27. A mutant is the memory transport, or RabbitMQ's where a check needs a server, or the",
        "core on it, with one promise broken: the check fails on it, which is what makes it a check.",
        "",
        f"| | tier | the check asserts | {' | '.join(classes)} | mutants |",
        f"|---|---|---|{'---|' * len(classes)}---|",
    ]
    for check in select():
        outcomes = " | ".join(tests.outcome_of(check) for tests in classes.values())
        lines.append(f"| {check.id} | {check.tier} | {check.says.replace('|', '/')} | {outcomes} | {mutants(check)} |")
    lines += [
        "",
        "## Tier S",
        "",
        "What takes long runs only where it is asked for: `busframe conformance URL --tier S`, or `make soak`. The",
        "tests run each for some seconds, in memory, on RabbitMQ 4.0, Kafka 4.3 and NATS 2.15, and demand that it",
        "passes.",
        "",
        "| | the check asserts | mutants |",
        "|---|---|---|",
        *(f"| {check.id} | {check.says} | {mutants(check)} |" for check in select(tiers=("S",))),
    ]
    lines += ["", "## Mutants", "", "| mutant | what is wrong with it | caught by |", "|---|---|---|"]
    for mutant in sorted(MUTANTS.values(), key=lambda mutant: (mutant.caught_by, mutant.name)):
        lines.append(f"| `{mutant.name}` | {mutant.wrong} | {', '.join(mutant.caught_by)} |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------- errors


def errors() -> str:
    """The page of errors: a tree in the order of the module, with what each says and has."""
    lines = [
        "# Errors",
        "",
        "All of `busframe.errors`. Each says what happened, to what, and what to do, and has its facts as attributes.",
        "An exception of a client library never escapes: it is the `__cause__`. What a handler raises to steer its",
        "message (`RetryAfter`, `PauseSource`, `Reject`, `Discard`) is none of these.",
        "",
    ]
    return "\n".join([*lines, *_tree(busframe.errors.BusframeError, 0)]) + "\n"


def _tree(kind: type[Exception], depth: int) -> Iterator[str]:
    summary, facts = _docstring(kind)
    yield f"{'  ' * depth}- **`{kind.__name__}`**: {summary}"
    for name, meaning in facts.items():
        if name != "what":
            yield f"{'  ' * depth}  `{name}`: {meaning}"
    for child in vars(busframe.errors).values():
        if isinstance(child, type) and child.__bases__ == (kind,):
            yield from _tree(child, depth + 1)


# ---------------------------------------------------------------------------------------------------- settings


def settings() -> str:
    """The page of settings: the framework's, a handler's, and each transport's."""
    retry = _docstring(Retry)[1]
    handler = dict.fromkeys(HandlerSettings.model_fields, "as in [`handle`](handlers.md)")
    handler["retry"] = "a table of the settings below"
    lines = [
        "# Settings",
        "",
        "How and where to say them: [Configure](../how-to/configure.md). All times are in seconds.",
        "",
        *_table("The bus", Settings, _docstring(Settings)[1], "At the top of `busframe.toml`, or `BUSFRAME_<NAME>`."),
        *_table(
            "A handler",
            HandlerSettings,
            handler,
            "In `[handlers.<name>]`: stronger than the decorator. What is not said stays as the code says.",
        ),
        *_table(
            "Its retry policy", RetrySettings, retry, "In `[handlers.<name>.retry]`; `give_up_on` and `rules` stay."
        ),
    ]
    for state in sorted(list_plugins(), key=lambda state: (state.distribution != "busframe", state.name)):
        if state.state == "ok" and (state.distribution or "").partition("-")[0] == "busframe":
            plugin = find_plugin(state.schemes[0])
            schemes = ", ".join(f"`{scheme}://`" for scheme in plugin.schemes)
            where = f"{schemes}. In `[transports.{plugin.name}]`, or in the query of the URL; `url` is said at the top."
            lines += _table(f"Transport {plugin.name}", plugin.settings, _docstring(plugin.settings)[1], where)
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, model: type[BaseModel], meanings: dict[str, str], where: str) -> list[str]:
    rows = [
        f"| `{name}` | {_kind(field.annotation, field.metadata)} | {_default(field)} | {_cell(meanings[name])} |"
        for name, field in model.model_fields.items()
    ]
    return [f"## {title}", "", where, "", "| name | type | default | meaning |", "|---|---|---|---|", *rows, ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


_KINDS = {str: "text", SecretStr: "text", Path: "file", int: "whole number", float: "number", bool: "`true` or `false`"}


def _kind(annotation: Any, rules: Iterable[Any]) -> str:
    """A type in words, with its range."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):  # of something and None: what may be left out
        return _kind(next(member for member in arguments if member is not type(None)), rules)
    if origin is Annotated:
        inner = [rule for extra in arguments[1:] for rule in getattr(extra, "metadata", (extra,))]
        return _kind(arguments[0], [*rules, *inner])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is dict:
        return "tables"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return " ".join([_KINDS.get(annotation, f"`{annotation}`"), *_ranges(rules)])


def _ranges(rules: Iterable[Any]) -> Iterator[str]:
    for rule in rules:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            bound = getattr(rule, name, None)
            if bound is not None and bound != float("inf"):
                yield f"{sign} {bound}"


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if value is None or value == "" or value == {}:
        return ""
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# ---------------------------------------------------------------------------------------------------- command line


def command_line() -> str:
    """The page of commands, as their `--help` says it."""
    # With the group's own settings: click keeps the help option that a command is first asked for.
    parent = click.Context(group, info_name="busframe", **group.context_settings)
    lines = [
        "# Command line",
        "",
        *_paragraphs(group.help or ""),
        "`--help` of each command says the same as this page.",
        "",
    ]
    for name in COMMANDS:
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        lines += [f"## busframe {name}", "", "```text", usage, "```", "", *_paragraphs(command.help or "")]
        lines += ["| option | |", "|---|---|"]
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and parameter.name != "help":
                lines.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _paragraphs(text: str) -> list[str]:
    cleaned = inspect.cleandoc(text.replace("\b\n", ""))
    lines: list[str] = []
    for paragraph in cleaned.split("\n\n"):
        lines += [" ".join(paragraph.split()), ""]
    return lines


# ---------------------------------------------------------------------------------------------------- docstrings


def _docstring(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """The text before the sections of a class's docstring, and what its arguments or attributes mean."""
    text = _markdown(inspect.getdoc(kind) or "") + "\n"
    facts: dict[str, str] = {}
    for title, body in _SECTION.findall(text):
        if title in ("Args", "Attributes"):
            facts |= {name: " ".join(meaning.split()) for name, meaning in _ENTRY.findall(body)}
    return " ".join(_SECTION.split(text)[0].split()), facts


def _markdown(text: str) -> str:
    """A docstring's ``code`` as `code`; where it points to the plan of the project, it says nothing to users."""
    return re.sub(r" \(semantics [A-C]\.\d\)", "", text.replace("``", "`"))


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
