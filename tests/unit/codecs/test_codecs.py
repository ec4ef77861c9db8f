import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import inf, isnan, nan
from typing import Any, Optional, Union
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from busframe.codecs import Codecs
from busframe.errors import ConfigurationError, DecodeFailed

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Cup(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    size: Size
    holds_ml: int = Field(alias="holdsMl")


@dataclass
class Order:
    cups: list[Cup]
    at: datetime
    price: Decimal
    id: UUID
    note: str | None = None
    wait: timedelta = timedelta(0)
    tags: dict[str, int] = field(default_factory=dict)


class Line(TypedDict, total=False):
    cup: Cup
    count: int


ORDER = Order(
    [Cup(size=Size.LARGE, holds_ml=300)],
    datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
    Decimal("3.10"),
    UUID("12345678-1234-5678-1234-567812345678"),
    wait=timedelta(minutes=5),
    tags={"hot": 1},
)


def again(payload: Any, kind: Any = None, codecs: Codecs | None = None) -> Any:
    """A payload, sent and received."""
    codecs = codecs or Codecs()
    body, content_type = codecs.encode(payload)
    return codecs.decode(body, content_type, kind or type(payload))


def refused(body: bytes, content_type: str | None, kind: Any, codecs: Codecs | None = None) -> DecodeFailed:
    """Why a body is not decoded."""
    with pytest.raises(DecodeFailed) as error:
        (codecs or Codecs()).decode(body, content_type, kind)
    return error.value


# ---------------------------------------------------------------------------------------------- payloads


@pytest.mark.parametrize(
    "payload",
    [
        ORDER,
        ORDER.cups[0],
        {"a": [1, 2.5, None, True, "ü", {}]},
        [1, "two", None],
        "text with ü and \x00",
        "",
        b"\x00\xff",
        b"",
        0,
        -(2**63),
        1.5,
        True,
        None,
        ORDER.at,
        date(2026, 1, 2),
        ORDER.price,
        ORDER.id,
        Size.SMALL,
        timedelta(seconds=1.5),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_comes_back(payload: Any) -> None:
    """What is sent as a class is received as the same value."""
    assert again(payload) == payload


@pytest.mark.parametrize(
    ("payload", "body", "content_type"),
    [
        (Cup(size=Size.SMALL, holds_ml=80), b'{"size":"s","holdsMl":80}', JSON),
        ({"ü": 1}, '{"ü":1}'.encode(), JSON),
        ((1, 2), b"[1,2]", JSON),
        (None, b"null", JSON),
        (7, b"7", JSON),
        ("7", b"7", TEXT),
        (b"7", b"7", BINARY),
        (bytearray(b"7"), b"7", BINARY),
        (memoryview(b"7"), b"7", BINARY),
        ({"at": ORDER.at, "of": Size.LARGE, "cup": ORDER.cups[0]}, None, JSON),
    ],
)
def test_text_and_bytes_travel_as_they_are(payload: Any, body: bytes | None, content_type: str) -> None:
    """Everything else is JSON, by alias and without white space."""
    encoded, found = Codecs().encode(payload)
    assert found == content_type
    assert type(encoded) is bytes
    if body is None:
        assert json.loads(encoded) == {
            "at": "2026-01-02T03:04:05.000678Z",
            "of": "l",
            "cup": {"size": "l", "holdsMl": 300},
        }
    else:
        assert encoded == body


def test_a_typed_dict_is_validated_when_it_is_received() -> None:
    """A dictionary is sent as it is, and its keys are checked by the one who takes it."""
    assert again({"count": 2}, Line) == {"count": 2}
    assert again({"cup": {"size": "s", "holdsMl": 1}}, Line) == {"cup": Cup(size=Size.SMALL, holds_ml=1)}
    assert "count: Input should be a valid integer" in str(refused(b'{"count": "two"}', JSON, Line))


@pytest.mark.parametrize("kind", [Cup | Line, Union[Cup, Line], Optional[Cup], Cup | str | None])  # noqa: UP007, UP045
def test_a_union_takes_what_fits(kind: Any) -> None:
    """A message without a type is decoded to the part of the union that it fits."""
    cup = Cup(size=Size.SMALL, holds_ml=1)
    assert again(cup, kind) == cup
    assert refused(b'{"size": "huge"', JSON, kind)


def test_numbers_of_any_size_travel() -> None:
    """JSON has no largest integer; what Python cannot read back in time is undecodable, not an endless loop."""
    assert again(10**300) == 10**300
    assert again({"n": 2**70}) == {"n": 2**70}
    assert isinstance(refused(b"1" * 10_000, JSON, int), DecodeFailed)


def test_what_is_not_finite_travels_in_dictionaries() -> None:
    """NaN and the infinities come back from what busframe itself wrote, where the payload has no schema."""
    got = again({"a": inf, "b": [-inf], "c": nan})
    assert (got["a"], got["b"]) == (inf, [-inf])
    assert isnan(got["c"])
    assert isnan(again(nan))


def test_a_model_says_itself_how_nan_is_written() -> None:
    """pydantic writes null for it, unless the model is configured otherwise."""

    class Plain(BaseModel):
        value: float

    class Constants(Plain):
        model_config = ConfigDict(ser_json_inf_nan="constants")

    assert Codecs().encode(Plain(value=nan))[0] == b'{"value":null}'
    assert again(Constants(value=inf)) == Constants(value=inf)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=20)  # generating is slower than what is tested
@given(st.dictionaries(st.text(), json_values))
def test_every_dictionary_comes_back(payload: dict[str, Any]) -> None:
    """What JSON can say is received as it was sent."""
    assert again(payload) == payload


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(payload: str) -> None:
    """Text is UTF-8, whatever it looks like."""
    assert again(payload) == payload
    assert again(payload, Any) == payload
    assert again(payload, Cup | str) == payload


@given(st.binary())
def test_every_body_comes_back_as_bytes(payload: bytes) -> None:
    """Bytes are received as they are, whatever the content type says."""
    codecs = Codecs()
    assert again(payload) == payload
    for content_type in (None, "", JSON, TEXT, BINARY, "nonsense", "text/plain; charset=klingon"):
        assert codecs.decode(payload, content_type, bytes) == payload


@settings(max_examples=25)
@given(
    st.builds(
        Order,
        st.lists(st.builds(Cup, size=st.sampled_from(Size), holdsMl=st.integers(-(2**63), 2**63 - 1))),
        st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
        st.decimals(allow_nan=False, allow_infinity=False),
        st.uuids(),
        st.none() | st.text(),
        st.timedeltas(timedelta(days=-1000), timedelta(days=1000)),
        st.dictionaries(st.text(), st.integers()),
    )
)
def test_every_order_comes_back(order: Order) -> None:
    """Models inside of dataclasses, dates, decimals, identifiers and enumerations keep their value."""
    assert again(order) == order


@given(st.binary(), st.none() | st.text() | st.sampled_from([JSON, TEXT, BINARY, "text/plain; charset=utf-16"]))
def test_whatever_comes_is_decoded_or_refused(body: bytes, content_type: str | None) -> None:
    """No body and no content type of a stranger raises anything but ``DecodeFailed``."""
    codecs = Codecs()
    for kind in (Order, Cup, Line, dict, list, str, int, None, Any, datetime, Cup | str, dict[str, Cup]):
        try:
            codecs.decode(body, content_type, kind)
        except DecodeFailed as failed:
            assert failed.args  # noqa: PT017 - either is right


# ---------------------------------------------------------------------------------------------- content types


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        JSON,
        "application/json; charset=utf-8",
        " Application/JSON ;q=1",
        "application/vnd.acme.cup+json",
        "application/cloudevents+JSON; v=1",
        "text/plain",
        BINARY,
        "binary/octet-stream",
    ],
)
def test_foreign_json_is_taken(content_type: str | None) -> None:
    """A stranger's content type may be missing, vague, or JSON of some kind: what counts is whether it parses."""
    cup = Codecs().decode(b'{"size": "s", "holdsMl": 80}', content_type, Cup)
    assert cup == Cup(size=Size.SMALL, holds_ml=80)


@pytest.mark.parametrize("content_type", ["application/xml", "application/msgpack", "text/html", "json", ";"])
def test_an_unknown_content_type_is_refused(content_type: str) -> None:
    """The error says which there are and where to give one."""
    if content_type == ";":  # no content type at all
        assert Codecs().decode(b"1", content_type, int) == 1
        return
    text = str(refused(b"<cup/>", content_type, Cup))
    assert f"no codec for content type {content_type!r}" in text
    assert "there are application/json; give Bus(codecs=[…]) one" in text


@pytest.mark.parametrize(
    ("charset", "python"),
    [
        ("UTF-8", "utf-8"),
        ('"utf-8"', "utf-8"),
        ("iso-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("ISO-8859-15", "iso-8859-15"),
    ],
)
def test_text_has_the_charset_that_it_says(charset: str, python: str) -> None:
    """A stranger's text is read as it was written."""
    body = "größer".encode(python)
    assert Codecs().decode(body, f"text/plain; format=flowed; CHARSET = {charset}", str) == "größer"


@pytest.mark.parametrize("charset", ["klingon", "idna", "zlib", "unicode_escape", "utf-7", ""])
def test_a_charset_that_is_not_known_is_refused(charset: str) -> None:
    """Python's own codecs are not all for texts of strangers; the error says what to do."""
    text = str(refused(b"text", f"text/plain; charset={charset}", str))
    assert "send UTF-8, or take the body as `bytes`" in text


def test_text_that_is_not_utf8_is_refused() -> None:
    """Nothing is replaced: a garbled text would be handled as if it were right."""
    assert "UnicodeDecodeError" in str(refused(b"\xff", TEXT, str))
    assert refused(b"\xff", None, str)
    assert refused(b'{"a": "\xff"}', JSON, dict)


def test_an_annotation_that_takes_text_gets_text() -> None:
    """Where text is one of several things that a handler takes, text/plain is text and not parsed."""
    codecs = Codecs()
    for kind in (Any, object, Cup | str, Cup | str | None):
        assert codecs.decode(b"7", TEXT, kind) == "7"
    for kind in (Any, object, Cup | bytes):
        assert codecs.decode(b"7", BINARY, kind) == b"7"
    assert codecs.decode(b"7", JSON, Any) == 7
    assert codecs.decode(b"7", None, Any) == 7
    assert codecs.decode(b"7", TEXT, int) == 7


@pytest.mark.parametrize("kind", [Cup, dict, list, int, Any, None])
def test_an_empty_body_is_not_json(kind: Any) -> None:
    """Nothing is not an empty object; as text or bytes it is what it is."""
    assert refused(b"", JSON, kind)
    assert Codecs().decode(b"", JSON, str) == ""
    assert Codecs().decode(b"", None, bytes) == b""


# ---------------------------------------------------------------------------------------------- failures


def test_an_error_says_what_and_where_but_no_values() -> None:
    """The text goes to logs, and a body may hold what should not be there; the cause has it all."""
    error = refused(b'{"size": "secret", "holdsMl": "hidden"}', JSON, Cup)
    text = str(error)
    assert text.startswith("the body is not Cup as application/json: size: Input should be 's' or 'l'; holdsMl: ")
    assert "secret" not in text
    assert "hidden" not in text
    assert "secret" in str(error.__cause__)


def test_an_error_with_many_problems_is_cut() -> None:
    """A list of a thousand wrong items says five of them."""
    text = str(refused(json.dumps(["x"] * 1000).encode(), None, list[int]))
    assert text.startswith("the body is not list[int] as JSON: 0: ")
    assert text.endswith("and 995 more")
    assert text.count("valid integer") == 5


@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        AssertionError,
        KeyError,
        RecursionError,
        SystemExit,
        asyncio.CancelledError,
        GeneratorExit,
        StopIteration,
    ],
)
def test_whatever_a_validator_raises_is_a_body_that_is_not(error: type[BaseException]) -> None:
    """Nothing that an application's validator raises stops the worker, or looks like its cancellation."""

    class Picky(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, n: int) -> int:
            raise error("no")

    failed = refused(b'{"n": 1}', JSON, Picky)
    assert failed.__cause__ is not None


def test_ctrl_c_is_not_a_wrong_body() -> None:
    """KeyboardInterrupt ends the process, wherever it strikes."""

    class Slow(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, n: int) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Codecs().decode(b'{"n": 1}', JSON, Slow)


def test_nesting_without_end_is_refused() -> None:
    """A body of ten thousand brackets is undecodable; a payload of as many cannot be encoded."""
    for kind in (list, dict, Any, Cup):
        assert refused(b"[" * 10_000 + b"]" * 10_000, JSON, kind)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises((ValueError, RecursionError)):
        Codecs().encode(deep)
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(ValueError, match="Circular"):
        Codecs().encode(loop)


@pytest.mark.parametrize("payload", [object(), {"a": object()}, {"a": b"\xff"}, "\ud800", lambda: None])
def test_what_cannot_be_encoded_is_an_error(payload: Any) -> None:
    """A payload that has no JSON, or text that has no UTF-8, is never sent as something else."""
    with pytest.raises(Exception, match=r".+"):
        Codecs().encode(payload)


def test_a_class_that_nothing_knows_cannot_be_decoded() -> None:
    """A handler of such a class has undecodable messages, and not a source that stands still."""

    class Unknown: ...

    assert "Unknown" in str(refused(b"{}", JSON, Unknown))


# ---------------------------------------------------------------------------------------------- codecs of one's own


class Reversed:
    """JSON backwards, which nobody else writes."""

    def __init__(self, content_type: Any = "application/x-reversed") -> None:
        self.content_type = content_type

    def encode(self, payload: object, /) -> bytes:
        return json.dumps(payload).encode()[::-1]

    def decode(self, body: bytes, kind: type[Any], /) -> Any:
        return kind(json.loads(body[::-1]))


class Shouting(Reversed):
    def __init__(self) -> None:
        super().__init__("Application/X-Shouting; loud=yes")

    def encode(self, payload: object, /) -> bytes:
        return repr(payload).upper().encode()

    def decode(self, body: bytes, kind: type[Any], /) -> Any:
        return body.decode().lower()


def test_the_first_codec_encodes() -> None:
    """What is no text and no bytes goes through the application's first codec."""
    codecs = Codecs([Reversed(), Shouting()])
    assert codecs.encode({"a": 1}) == (b'}1 :"a"{', "application/x-reversed")
    assert codecs.encode("text") == (b"text", TEXT)
    assert codecs.encode(b"bytes") == (b"bytes", BINARY)


def test_the_content_type_chooses_who_decodes() -> None:
    """Each codec decodes what says its content type, with whatever parameters; JSON stays JSON."""
    codecs = Codecs([Reversed(), Shouting()])
    assert again({"a": 1}, codecs=codecs) == {"a": 1}
    assert codecs.decode(b'}1 :"a"{', "APPLICATION/X-Reversed; v=1", dict) == {"a": 1}
    assert codecs.decode(b"HEY", "application/x-shouting", str) == "hey"
    assert codecs.decode(b'{"a": 1}', JSON, dict) == {"a": 1}
    assert "there are application/json, application/x-reversed, application/x-shouting" in str(
        refused(b"", "text/csv", dict, codecs)
    )


def test_text_and_bytes_are_never_a_codecs() -> None:
    """A codec that claims their content types does not get what was sent as it is."""
    codecs = Codecs([Reversed("text/plain"), Reversed(BINARY)])
    assert again("text", codecs=codecs) == "text"
    assert again(b"bytes", codecs=codecs) == b"bytes"
    assert codecs.decode(b"}{", BINARY, dict) == {}


def test_a_codec_for_json_takes_its_place() -> None:
    """An application may have JSON read and written by another library."""

    class Own(Reversed):
        def __init__(self) -> None:
            super().__init__(JSON)

    codecs = Codecs([Own()])
    assert codecs.encode([1, 2]) == (b"]2 ,1[", JSON)
    assert codecs.decode(b"]2 ,1[", "application/json; charset=utf-8", list) == [1, 2]


def test_whatever_a_codec_raises_is_a_body_that_is_not() -> None:
    """The error names the codec's own."""
    error = refused(b"not json", "application/x-reversed", dict, Codecs([Reversed()]))
    assert "the body is not dict as application/x-reversed: JSONDecodeError" in str(error)


@pytest.mark.parametrize("wrong", ["text", None, bytearray(b"x"), 7])
def test_a_codec_has_to_make_bytes(wrong: Any) -> None:
    """Anything else would fail in the transport, far from the mistake."""

    class Wrong(Reversed):
        def encode(self, payload: object, /) -> bytes:
            return wrong  # type: ignore[no-any-return]

    with pytest.raises(TypeError, match=f"made {type(wrong).__name__} of it, and not bytes"):
        Codecs([Wrong()]).encode({})


def test_two_codecs_of_one_content_type_are_refused() -> None:
    """Parameters and letters' case make no difference."""
    with pytest.raises(ConfigurationError, match="two codecs say the content type 'application/x-shouting'"):
        Codecs([Shouting(), Reversed("APPLICATION/x-shouting")])


@pytest.mark.parametrize("make", [lambda: Reversed(None), lambda: Reversed(""), lambda: Reversed("; q=1"), object])
def test_a_codec_has_a_content_type(make: Callable[[], Any]) -> None:
    """Without one nobody could tell what it decodes."""
    with pytest.raises(ConfigurationError, match="is no codec: it needs a content_type"):
        Codecs([make()])


def test_content_types_of_strangers_are_not_kept_for_ever() -> None:
    """What is remembered of them is bounded, and what is not remembered works as well."""
    codecs = Codecs()
    for number in range(2000):
        assert codecs.decode(b"1", f"application/json; n={number}", int) == 1
    assert len(codecs._decoders) == 1024
