import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from busframe import Context, DeadLetters, Message, Queue, SyncContext, Topic, message_type
from busframe.errors import HandlerSignatureError
from busframe.handling.signature import Signature, read_signature

if TYPE_CHECKING:
    from decimal import Decimal


class Opened(BaseModel):
    account: int


@message_type("account.closed", "AccountEnded")
class Closed(BaseModel):
    account: int


class Event:
    pass


@dataclass
class Deposited(Event):
    amount: int


@dataclass
class Withdrawn(Event):
    amount: int


class Rate(TypedDict):
    currency: str


ledger = Queue("ledger", Opened, Closed)
opened = Queue("opened", Opened)
events = Topic("events", Deposited, Withdrawn).subscription("audit")
loose: Queue[Any] = Queue("loose")
texts = Queue("texts", str)
Source = Any


def read(fn: Any, source: Source = opened, only: Any = None) -> Signature:
    """What is read of a handler."""
    return read_signature(fn, source, only)


def refused(fn: Any, source: Source = opened, only: Any = None) -> str:
    """The error of a handler that is refused."""
    with pytest.raises(HandlerSignatureError) as error:
        read_signature(fn, source, only)
    assert str(source) in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------- the body


def test_a_body_of_the_declared_class_is_taken_by_its_name() -> None:
    """A handler of the source's only class takes messages of its name, and nothing else."""

    async def handler(body: Opened) -> None: ...

    assert read(handler) == Signature(Opened, (), {}, True, {"Opened": Opened}, False)


def test_a_body_is_taken_by_every_name_of_its_class() -> None:
    """Older names that ``message_type`` accepts find the handler as well."""

    async def handler(body: Closed) -> None: ...

    assert read(handler, ledger, Closed).types == {"account.closed": Closed, "AccountEnded": Closed}


@pytest.mark.parametrize("annotation", [Opened | Closed, Union[Opened, Closed], Opened | Closed | None])  # noqa: UP007
def test_a_union_takes_each_of_its_classes(annotation: Any) -> None:
    """Each message is decoded to the class that its type says, and not to whichever of the union fits."""

    async def handler(body: Any) -> None: ...

    handler.__annotations__["body"] = annotation
    signature = read(handler, ledger)
    assert signature.types == {"Opened": Opened, "account.closed": Closed, "AccountEnded": Closed}
    assert not signature.catch_all
    assert signature.body == annotation


def test_a_base_class_takes_its_subclasses() -> None:
    """A body annotated with a base is decoded to the declared class."""

    async def handler(body: Event) -> None: ...

    assert read(handler, events).types == {"Deposited": Deposited, "Withdrawn": Withdrawn}
    assert read(handler, events, Deposited).types == {"Deposited": Deposited}


def test_no_annotation_takes_what_is_declared() -> None:
    """A body without an annotation is of the source's types, or of the one that only= says."""

    async def handler(body) -> None: ...  # type: ignore[no-untyped-def]

    assert read(handler, ledger).types.keys() == {"Opened", "account.closed", "AccountEnded"}
    assert read(handler, ledger, Opened).types == {"Opened": Opened}
    assert read(lambda body: None, opened).types == {"Opened": Opened}


@pytest.mark.parametrize("annotation", [dict, dict[str, Any], bytes, Message, Any, object, list[int]])
def test_some_bodies_take_everything(annotation: Any) -> None:
    """A builtin body, or ``Message``, is a catch-all, on a typed source too."""

    async def handler(body: Any) -> None: ...

    handler.__annotations__["body"] = annotation
    for source in (loose, ledger):
        signature = read(handler, source)
        assert signature.catch_all
        assert signature.types == {}
        assert signature.body == annotation


def test_text_takes_everything_where_text_is_declared() -> None:
    """``str`` is a catch-all of a queue of text; of a queue of models it is a mistake."""

    async def handler(body: str) -> None: ...

    assert read(handler, texts).catch_all
    assert read(handler, loose).catch_all
    assert "carries Opened" in refused(handler, opened)


def test_a_builtin_body_with_only_is_what_its_annotation_says() -> None:
    """``only=`` chooses the messages; how they are decoded is the annotation's."""

    async def as_dict(body: dict[str, Any]) -> None: ...
    async def as_message(body: Message) -> None: ...
    async def as_anything(body: Any) -> None: ...

    assert read(as_dict, ledger, Opened).types == {"Opened": dict[str, Any]}
    assert read(as_message, ledger, Opened).types == {"Opened": Message}
    assert read(as_anything, ledger, Opened).types == {"Opened": Opened}
    assert not read(as_dict, ledger, Opened).catch_all


def test_a_union_with_a_builtin_decodes_the_rest_to_it() -> None:
    """The classes of a union are found by type; what else comes is decoded to the builtin, not to the union."""

    async def handler(body: Opened | dict[str, Any]) -> None: ...
    async def raw(body: Opened | bytes) -> None: ...

    assert read(handler, ledger) == Signature(dict[str, Any], (), {}, True, {"Opened": Opened}, True)
    assert read(raw, ledger).body is bytes


def test_a_union_of_just_what_is_declared_takes_nothing_else() -> None:
    """A declared builtin in a union is one type among others, and no catch-all."""

    async def handler(body: Opened | str) -> None: ...

    signature = read(handler, Queue("mixed", Opened, str))
    assert signature.types == {"Opened": Opened, "str": str}
    assert not signature.catch_all


def test_what_is_noted_beside_a_body_counts() -> None:
    """``Annotated`` is kept for the codec, by which pydantic validates it."""
    noted = Annotated[Opened, Field(description="from the counter")]

    async def handler(body: Any) -> None: ...

    handler.__annotations__["body"] = noted
    assert read(handler).types == {"Opened": noted}
    handler.__annotations__["body"] = Annotated[dict[str, int], "x"]
    assert read(handler, loose).body == Annotated[dict[str, int], "x"]
    handler.__annotations__["body"] = Annotated[Message, "x"]
    assert read(handler, loose).body is Message


def test_a_typed_dict_is_a_class_like_another() -> None:
    """A TypedDict, of which nobody may ask whether something is one, can be declared and taken."""
    rates = Queue("rates", Rate, Opened)

    async def one(body: Rate) -> None: ...
    async def both(body: Rate | Opened) -> None: ...

    assert read(one, rates, Rate).types == {"Rate": Rate}
    assert read(both, rates).types == {"Rate": Rate, "Opened": Opened}
    assert read(one, loose).types == {"Rate": Rate}


def test_an_undeclared_source_gives_what_the_body_says() -> None:
    """Where the source declares nothing, the annotation decides."""

    async def handler(body: Opened | Closed) -> None: ...
    async def number(body: int) -> None: ...

    assert read(handler, loose).types == {"Opened": Opened, "account.closed": Closed, "AccountEnded": Closed}
    assert read(number, loose).body is int


def test_dead_letters_are_messages() -> None:
    """A handler of dead letters takes ``Message``; a class of the source's is refused."""

    async def handler(body: Message) -> None: ...
    async def wrong(body: Opened) -> None: ...

    letters: DeadLetters = opened.dead_letters
    assert read(handler, letters).catch_all
    assert "carries Message" in refused(wrong, letters)


# ---------------------------------------------------------------------------------------------- mistakes of the body


def test_a_body_that_the_source_does_not_carry_is_refused() -> None:
    """The error names the body and what the source carries."""

    async def handler(body: Closed) -> None: ...

    assert "its body is Closed, but opened carries Opened" in refused(handler)


def test_a_part_of_the_types_needs_only() -> None:
    """A handler of one of several types has to say so."""

    async def handler(body: Opened) -> None: ...

    text = refused(handler, ledger)
    assert "carries Closed as well" in text
    assert "say only=Opened, or take the union" in text


def test_only_has_to_agree() -> None:
    """``only=`` is one of the source's classes, and the body takes it."""

    async def handler(body: Opened) -> None: ...

    assert "only=Deposited, but ledger carries Opened, Closed" in refused(handler, ledger, Deposited)
    assert "only=Closed, but its body is Opened: make them agree" in refused(handler, ledger, Closed)
    assert "only='Opened' must be a class" in refused(handler, ledger, "Opened")


def test_a_message_is_taken_alone() -> None:
    """``Message`` in a union would be both decoded and not."""

    async def handler(body: Opened | Message) -> None: ...

    assert "take it alone" in refused(handler, ledger)


def test_two_classes_of_one_name_are_refused() -> None:
    """Nobody could tell apart two declared classes that have the same name on the wire."""

    @message_type("Opened")
    class Other(BaseModel): ...

    async def handler(body: Any) -> None: ...

    assert "give one of them another name with @message_type" in refused(handler, Queue("twins", Opened, Other))


def test_no_annotation_and_no_types_is_refused() -> None:
    """Nothing would say what the body is."""
    assert "say what the body is" in refused(lambda body: None, loose)


def test_a_first_parameter_is_needed() -> None:
    """A function without a parameter that can be given by position cannot take the body."""

    async def none() -> None: ...
    async def named(*, body: Opened) -> None: ...
    async def variable(*body: Opened) -> None: ...

    for handler in (none, named, variable):
        assert "needs a first parameter for the body" in refused(handler)


@pytest.mark.parametrize("annotation", [Context, SyncContext, Optional[Context], Annotated[Context, "x"]])  # noqa: UP045
def test_the_context_comes_second(annotation: Any) -> None:
    """A context in the body's place is told to go behind it."""

    async def handler(ctx: Any, body: Opened) -> None: ...

    handler.__annotations__["ctx"] = annotation
    assert "put the context second" in refused(handler)


# ---------------------------------------------------------------------------------------------- the other parameters


def test_parameters_are_filled_by_annotation() -> None:
    """The context and the message are given where they are asked for, by position or by name."""

    async def handler(body: Opened, ctx: Context, message: Message, *, again: Context) -> None: ...
    def plain(body: Opened, message: Message, ctx: SyncContext) -> None: ...

    signature = read(handler)
    assert signature.positional == ("context", "message")
    assert signature.named == {"again": "context"}
    assert read(plain).positional == ("message", "context")
    assert not read(plain).is_async


def test_a_context_may_be_left_out_by_tests() -> None:
    """``Context | None = None`` is given all the same."""

    async def handler(body: Opened, ctx: Context | None = None) -> None: ...
    def plain(body: Opened, ctx: Optional[SyncContext] = None, message: Message | None = None) -> None: ...  # noqa: UP045

    assert read(handler).positional == ("context",)
    assert read(plain).positional == ("context", "message")


def test_defaults_are_left_alone() -> None:
    """A parameter with a default is not given; one behind it is given by name."""

    async def handler(
        body: Opened, retries: int = 3, ctx: Any = None, *rest: int, flag: bool = True, **more: int
    ) -> None: ...

    handler.__annotations__["ctx"] = Context
    signature = read(handler)
    assert signature.positional == ()
    assert signature.named == {"ctx": "context"}


def test_what_only_has_a_position_cannot_stand_behind_a_default() -> None:
    """It could not be given without giving the default, too."""

    async def handler(body: Opened, retries: int = 3, ctx: Context | None = None, /) -> None: ...

    assert "put it before 'retries'" in refused(handler)


def test_a_parameter_that_nothing_fills_is_refused() -> None:
    """The error names the parameter, its annotation, and what can be asked for."""

    async def annotated(body: Opened, pool: int) -> None: ...
    def bare(body, pool) -> None: ...  # type: ignore[no-untyped-def]

    text = refused(annotated)
    assert "parameter 'pool' has the annotation int" in text
    assert "annotate it with Context or Message, or give it a default" in text
    assert "has no annotation" in refused(bare)
    assert "annotate it with SyncContext" in refused(bare)


def test_the_context_fits_the_function() -> None:
    """An async function waits with Context; a plain one, which runs in a thread, has SyncContext."""

    async def wrong(body: Opened, ctx: SyncContext) -> None: ...
    def plain(body: Opened, *, ctx: Context | None = None) -> None: ...

    assert "it is an async function: ask Context" in refused(wrong)
    assert "which runs in a thread: ask SyncContext" in refused(plain)


# ---------------------------------------------------------------------------------------------- what can be called


def test_a_method_of_an_instance_is_a_handler() -> None:
    """A bound method has no self to fill; a function of a class is told to become one."""

    class Teller:
        async def open(self, body: Opened, ctx: Context) -> None: ...

        @staticmethod
        def close(body: Opened) -> None: ...

    assert read(Teller().open) == Signature(Opened, ("context",), {}, True, {"Opened": Opened}, False)
    assert not read(Teller.close).is_async
    assert "register it when there is an instance" in refused(Teller.open)


def test_an_object_that_can_be_called_is_a_handler() -> None:
    """Its ``__call__`` says what it takes; a class is told to be made one of."""

    class Async:
        async def __call__(self, body: Opened, ctx: Context) -> None: ...

    class Plain:
        def __call__(self, body: Opened) -> None: ...

    assert read(Async()).is_async
    assert read(Async()).positional == ("context",)
    assert not read(Plain()).is_async
    assert "it is a class" in refused(Plain)
    assert "not a function" in refused(7)


def test_a_partial_is_a_handler() -> None:
    """What is filled in already is not asked for; whether it is async is what it is made of."""

    async def handler(pool: int, body: Opened, ctx: Context, *, flag: bool) -> None: ...
    def plain(body: Opened, *, flag: bool) -> None: ...

    signature = read(functools.partial(functools.partial(handler, 3), flag=True))
    assert signature.is_async
    assert signature.positional == ("context",)
    assert not read(functools.partial(plain, flag=True)).is_async
    assert "first parameter" in refused(functools.partial(plain, body=Opened(account=1)))


def test_a_decorated_function_is_read_through_its_decorator() -> None:
    """``functools.wraps`` shows what is inside."""

    def logged(fn: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(fn)
        async def wrapper(*args: Any, **named: Any) -> None:
            await fn(*args, **named)

        return wrapper

    class Logged:
        def __init__(self, fn: Callable[..., Awaitable[None]]) -> None:
            self.fn = fn
            functools.update_wrapper(self, fn)

        async def __call__(self, *args: Any, **named: Any) -> None:
            await self.fn(*args, **named)

    async def handler(body: Opened, ctx: Context) -> None: ...

    for decorated in (logged(handler), Logged(handler), functools.partial(logged(handler))):
        assert read(decorated) == read(handler)


def test_a_plain_wrapper_of_an_async_function_is_refused() -> None:
    """In a thread it would make a coroutine that nobody awaits, and its message would be acknowledged unhandled."""

    def timed(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **named: Any) -> Any:
            return fn(*args, **named)

        return wrapper

    @timed
    async def handler(body: Opened) -> None: ...

    assert "make the decorator's wrapper `async def`" in refused(handler)


def test_a_signature_of_ones_own_counts() -> None:
    """A decorator that injects parameters says what is left by ``__signature__``."""

    async def handler(*args: Any) -> None: ...

    handler.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("body", inspect.Parameter.POSITIONAL_ONLY, annotation=Opened),
            inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY, annotation=Context),
        ]
    )
    assert read(handler).positional == ("context",)


def test_generators_are_refused() -> None:
    """A generator would be made and never run."""

    async def asynchronous(body: Opened) -> AsyncIterator[int]:
        yield 1

    def plain(body: Opened) -> Iterator[int]:
        yield 1

    class Called:
        def __call__(self, body: Opened) -> Iterator[int]:
            yield 1

    for handler in (asynchronous, plain, Called()):
        assert "return instead of yield" in refused(handler)


def test_what_has_no_signature_is_refused() -> None:
    """Some builtin functions do not say what they take."""
    assert "cannot be read" in refused(getattr)


# ---------------------------------------------------------------------------------------------- annotations


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    """The error names the parameter and where its class has to be imported."""

    def handler(body: "Decimal") -> None: ...
    def second(body: Opened, ctx: "Missing" = None) -> None: ...  # type: ignore[name-defined] # noqa: F821

    text = refused(handler, loose)
    assert "annotation of 'body' cannot be resolved" in text
    assert "not under TYPE_CHECKING" in text
    assert "annotation of 'ctx'" in refused(second)


def test_an_annotation_that_is_none_is_refused() -> None:
    """Text that is no expression, or names an attribute that is not there, is an error of the handler."""

    def handler(body: Any) -> None: ...

    for wrong in ("not an annotation", "inspect.Missing", "Opened["):
        handler.__annotations__["body"] = wrong
        assert "annotation of 'body' cannot be read" in refused(handler)


def test_what_is_returned_need_not_be_resolved() -> None:
    """Only what is filled is read: a return annotation may be for type checkers alone."""

    def handler(body: "Opened", *rest: "Decimal", **more: "Decimal") -> "Decimal":  # type: ignore[empty-body]
        ...

    assert read(handler).types == {"Opened": Opened}
