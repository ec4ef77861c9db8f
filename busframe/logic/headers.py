"""What may stand in a message's fields, so that it travels unchanged on every broker (semantics A.6)."""

import re
from functools import lru_cache

from busframe.errors import InvalidHeader
from busframe.logic.wire import PREFIX, is_brokers_own
from busframe.model.message import Message

MAX_HEADERS = 64
MAX_VALUE_BYTES = 8 * 1024
MAX_TOTAL_BYTES = 24 * 1024
MAX_ID = 100
MAX_FIELD = 128

_NAME = re.compile(r"[A-Za-z0-9\-_.]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_message(message: Message) -> None:
    """Refuse a message that some broker would alter or reject.

    Raises:
        InvalidHeader: naming the field and the rule.
    """
    id = message.id
    _check_field("id", id, MAX_ID, "")  # an id that is wrong names nothing, and may be a megabyte
    if not id:
        raise InvalidHeader("id is empty: leave it out to get a new one")
    if message.type is not None:
        _check_field("type", message.type, MAX_FIELD, id)
    if message.key is not None:
        _check_field("key", message.key, MAX_FIELD, id)
    if message.correlation_id is not None:
        _check_field("correlation_id", message.correlation_id, MAX_FIELD, id)
    if message.reply_to is not None:
        _check_field("reply_to", message.reply_to, MAX_FIELD, id)
    if message.content_type is not None:
        _check_field("content_type", message.content_type, MAX_FIELD, id)
    if message.headers:
        _check_headers(message)


def correlation_of(message: Message) -> str | None:
    """What messages that are caused by this one carry as their correlation id: its own, else its id.

    None where neither would travel: a foreign program may have sent anything.
    """
    for value in (message.correlation_id, message.id):
        if value and len(value) <= MAX_FIELD and value.isascii() and value.isprintable():
            return value
    return None


def _check_field(field: str, value: object, longest: int, message_id: str) -> None:
    if not (isinstance(value, str) and len(value) <= longest and value.isascii() and value.isprintable()):
        raise InvalidHeader(
            f"{field} {_shorten(value)} must be text of at most {longest} printable ASCII characters",
            message_id=message_id,
        )


def _check_headers(message: Message) -> None:
    headers = message.headers
    if len(headers) > MAX_HEADERS:
        raise InvalidHeader(f"{len(headers)} headers: at most {MAX_HEADERS} travel", message_id=message.id)
    total = 0
    for name, value in headers.items():
        size, problem = 0, _name_problem(name)
        if problem is None:
            size, problem = _measure(value)
        if problem is not None:
            raise InvalidHeader(f"header {_shorten(name)} {problem}", message_id=message.id)
        total += len(name) + size
    if total > MAX_TOTAL_BYTES:
        raise InvalidHeader(f"the headers have {total} bytes: at most {MAX_TOTAL_BYTES} travel", message_id=message.id)


@lru_cache(maxsize=1024)
def _name_problem(name: object) -> str | None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "must have a name of 1 to 128 ASCII letters, digits and '-_.'"
    if name.lower().startswith(PREFIX):
        return f"begins with {PREFIX!r}, which is reserved for the framework: choose another name"
    if is_brokers_own(name):
        return "is one that brokers write themselves: choose another name"
    return None


def _measure(value: object) -> tuple[int, str | None]:
    if not isinstance(value, str):
        return 0, f"must be text, not {type(value).__name__}: convert it"
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        return 0, "has a value that is not valid Unicode text"
    if _CONTROL.search(value):
        return size, "has a value with control characters, which not every broker carries"
    if value != value.strip():
        return size, "has a value with white space at its edge, which not every broker keeps"
    if size > MAX_VALUE_BYTES:
        return size, f"has a value of {size} bytes: at most {MAX_VALUE_BYTES} travel"
    return size, None


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
