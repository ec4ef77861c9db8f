"""Hiding what nobody should read in a log.

When in doubt more is hidden than necessary: a password that was not percent-encoded makes a URL ambiguous, and then
everything before the last ``@`` goes.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

HIDDEN = "***"

_WORDS = frozenset(
    ("auth", "credential", "credentials", "jwt", "key", "nkey", "pass", "passphrase", "pwd", "sas", "seed", "sig")
)
_PARTS = ("password", "passwd", "secret", "token", "signature", "apikey", "accesskey", "connectionstring")
# ``SharedAccessKeyName`` and ``tls_key_file`` say where a secret is, not what it is.
_HARMLESS_ENDS = frozenset(("name", "file", "path", "type", "dir"))
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_PAIR = re.compile(r"([^?&;=\s/]+)=([^&;\s]+)")
_PROPER_PAIR = re.compile(r"[?&;][\w.%-]+=[^&;]*")


def mask_url(url: str) -> str:
    """A URL, or a connection string of ``name=value`` pairs, that can be printed.

    ``user:password`` and the values of options whose names look secret become ``***``.
    """
    scheme, separator, rest = url.rpartition("://") if url.count("://") == 1 else url.partition("://")
    if not separator:
        scheme, rest = "", url
    end = re.search(r"[/?#]", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    has_user = "@" in authority
    # In a URL the part before the first / ? # holds no options, a connection string has nothing else.
    authority = f"{HIDDEN}@{authority.rpartition('@')[2]}" if has_user and separator else _mask_pairs(authority)
    tail = _mask_pairs(tail)
    if "@" in (tail if not has_user else _PROPER_PAIR.sub("", tail)) or (not separator and has_user):
        # The password holds an unencoded / ? or #; nobody can say where it ends, but surely before the last @.
        return f"{scheme}{separator}{HIDDEN}@{(authority + tail).rpartition('@')[2]}"
    return f"{scheme}{separator}{authority}{tail}"


def mask(name: str, value: object) -> object:
    """A setting that can be printed: hidden if its name looks secret, else with the secrets inside it hidden.

    Tables and lists are copied with each of their members masked.
    """
    if isinstance(value, Mapping):
        return {key: mask(str(key), member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(name, member) for member in value]
    if value is None or value == "" or isinstance(value, bool):
        return value
    if looks_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return mask_url(value) if "://" in value else _mask_pairs(value)
    return value


def looks_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret, as far as a name tells."""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    if not words or words[-1] in _HARMLESS_ENDS:
        return False
    return not _WORDS.isdisjoint(words) or any(part in "".join(words) for part in _PARTS)


def _mask_pairs(text: str) -> str:
    return _PAIR.sub(lambda pair: f"{pair[1]}={HIDDEN}" if looks_secret(unquote(pair[1])) else pair[0], text)
