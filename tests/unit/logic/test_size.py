from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.size import message_bytes
from busframe.model.message import Message
from tests.unit.logic.strategies import header_text, names


@given(st.binary(max_size=100), st.dictionaries(names, header_text, max_size=5))
def test_size_is_the_body_and_the_headers_as_bytes(body: bytes, headers: dict[str, str]) -> None:
    """A message is as large as its body, its names and its values in UTF-8."""
    written = body + b"".join(name.encode() + value.encode() for name, value in headers.items())
    assert message_bytes(Message(body, "id", headers=headers)) == len(written)


def test_a_message_without_headers_is_its_body() -> None:
    """Nothing else of it is counted: the reserve covers the rest."""
    assert message_bytes(Message(b"12345", "some-id", key="k", type="T")) == 5
