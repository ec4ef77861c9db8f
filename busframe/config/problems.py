"""Pydantic's findings as sentences: where it was said, which key, what is wrong, what was probably meant."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from busframe.config.secrets import mask
from busframe.config.settings import HandlerSettings, RetrySettings, Settings
from busframe.config.sources import Key, Layer, dotted


def explain(failed: ValidationError, layers: Sequence[Layer]) -> list[str]:
    """One sentence for each thing that is wrong with merged layers, strongest first."""
    problems = []
    for error in failed.errors(include_url=False):
        key = tuple(str(part) for part in error["loc"])
        sayers = [layer for layer in layers if layer.says(key)] or list(layers[:1])
        if error["type"] == "extra_forbidden":
            where = " and ".join(layer.origin_of(key, where=True) for layer in sayers)
            problems.append(f"{where}: {unknown_key(key, known_keys(key))}")
        else:  # the strongest one's value was judged; the others' may be as wrong, but does not count
            problems.append(f"{sayers[0].origin_of(key, where=True)}: {dotted(key)} {wrong_value(error)}")
    return problems


def known_keys(key: Key) -> Iterable[str]:
    """What may stand where an unknown key stands."""
    model: type[BaseModel] = Settings
    if key[0] == "handlers":
        model = HandlerSettings if len(key) == 3 else RetrySettings
    return model.model_fields


def unknown_key(key: Key, known: Iterable[str]) -> str:
    """That there is no such key, and which ones are close, or all if none is."""
    close = close_names(key[-1], known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
    return f"{dotted(key)} is unknown; {hint}"


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Known names that a typing mistake, a missing unit or another spelling would explain."""
    names = {candidate.removesuffix("_s").lower(): candidate for candidate in known}
    found = get_close_matches(name.replace("-", "_").removesuffix("_s").lower(), list(names), n=2, cutoff=0.65)
    return [names[close] for close in found]


def wrong_value(error: Mapping[str, Any]) -> str:
    """What is wrong with the value of a key; secrets are not repeated."""
    rule = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":
        return str(rule)
    if error["type"] == "missing":
        return "is missing"
    if error["type"] in {"dict_type", "model_type", "model_attributes_type"}:
        rule = "a table"
    # Without the second half: "…, unable to parse string as a number" says what everybody sees.
    rule = rule.split(", unable to")[0].replace("a valid integer", "a whole number").replace("a valid string", "a text")
    rule = rule.replace("a valid ", "a ")
    given = error["input"]
    shown = "" if isinstance(given, Mapping) else f", not {mask(str(error['loc'][-1]), given)!r}"
    hint = ""
    if error["type"] in {"literal_error", "enum"} and isinstance(given, str):
        close = get_close_matches(given, [part.strip(" '") for part in rule.replace(" or ", ",").split(",")], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"must be {rule}{shown}{hint}" if error["msg"].startswith("Input should be ") else f"is wrong: {rule}{shown}"
