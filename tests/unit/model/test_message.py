import copy
import json
import pickle
from dataclasses import asdict, replace

import pytest

from busframe.model.message import NO_HEADERS, FrozenHeaders, Message

MESSAGE = Message(b"body", "id", headers=FrozenHeaders({"a": "1"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers.__setitem__("a", "2"),
        lambda headers: headers.__delitem__("a"),
        lambda headers: headers.__ior__({"b": "2"}),
        lambda headers: headers.update(b="2"),
        lambda headers: headers.setdefault("b", "2"),
        lambda headers: headers.pop("a"),
        lambda headers: headers.popitem(),
        lambda headers: headers.clear(),
    ],
)
def test_nobody_changes_the_headers_of_a_message(change: object) -> None:
    """A handler that tries is told what to do, and what is redelivered is as it was published."""
    with pytest.raises(TypeError, match="publish a new one"):
        change(MESSAGE.headers)  # type: ignore[operator]
    assert MESSAGE.headers == {"a": "1"}


@pytest.mark.parametrize("message", [MESSAGE, replace(MESSAGE, headers=NO_HEADERS)])
def test_a_message_can_be_pickled_copied_and_shown(message: Message) -> None:
    """Logs, process pools and tests take it as any other dataclass."""
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) == message
    assert json.loads(json.dumps(asdict(message)["headers"])) == message.headers
    assert dict(message.headers) | {"b": "2"} == {**message.headers, "b": "2"}
