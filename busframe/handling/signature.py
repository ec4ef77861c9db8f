"""What a handler takes, read once at registration: a mistake is an error there, and not at the first message."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from busframe.errors import HandlerSignatureError
from busframe.handling.context import Context, SyncContext
from busframe.model.destination import SourceAddress
from busframe.model.message import Message
from busframe.model.types import type_ids

Filler: TypeAlias = Literal["context", "message"]

_CATCH_ALL = (bytes, str, dict, list, Message, Any, object)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a handler takes.

    Attributes:
        body: the annotation of its first parameter; ``Message`` asks for no decoding.
        positional: how the parameters after the body are filled, in their order.
        named: how the keyword-only ones are filled.
        is_async: whether it is awaited; a plain function runs in a thread.
        types: message type → what its body is decoded to. With ``catch_all`` these are only the declared ones.
        catch_all: it takes messages of any type.
    """

    body: Any
    positional: tuple[Filler, ...]
    named: Mapping[str, Filler]
    is_async: bool
    types: Mapping[str, Any]
    catch_all: bool


def read_signature(fn: Callable[..., Any], source: SourceAddress, only: type | None) -> Signature:
    """Read and check a handler's parameters.

    Args:
        fn: the function.
        source: what it shall handle.
        only: the one of the source's types that it shall handle.

    Raises:
        HandlerSignatureError: saying what is wrong with which parameter, and what to write instead.
    """
    return _Reader(fn, source, only).read()


class _Reader:
    def __init__(self, fn: Callable[..., Any], source: SourceAddress, only: type | None) -> None:
        self.fn = fn
        self.source = source
        self.only = only
        self.name = getattr(fn, "__qualname__", repr(fn))

    def error(self, problem: str) -> HandlerSignatureError:
        return HandlerSignatureError(f"handler {self.name} of {self.source}: {problem}")

    def read(self) -> Signature:
        if not callable(self.fn):
            raise self.error("it is not a function")
        called = self.fn if inspect.isroutine(self.fn) or inspect.isclass(self.fn) else type(self.fn).__call__
        unwrapped = inspect.unwrap(self.fn)
        for kind in (self.fn, called, unwrapped):
            if inspect.isasyncgenfunction(kind) or inspect.isgeneratorfunction(kind):
                raise self.error("it is a generator: return instead of yield, and publish through the context")
        is_async = any(inspect.iscoroutinefunction(kind) for kind in (self.fn, called, getattr(self.fn, "func", None)))
        hints = self.hints()
        try:
            parameters = list(inspect.signature(self.fn).parameters.values())
        except (TypeError, ValueError) as error:
            raise self.error(f"its parameters cannot be read: {error}") from error
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            raise self.error("it needs a first parameter for the body, such as `order: Order`")
        body = self.body(hints.get(parameters[0].name, inspect.Parameter.empty), parameters[0].name)
        positional: list[Filler] = []
        named: dict[str, Filler] = {}
        skipped: str | None = None
        for parameter in parameters[1:]:
            filler = self.filler(parameter, hints.get(parameter.name), is_async)
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY or skipped is not None:
                if filler is not None:
                    named[parameter.name] = filler
            elif filler is not None:
                positional.append(filler)
            else:
                skipped = parameter.name
        accepted, catch_all = self.accepted(body)
        return Signature(body, tuple(positional), named, is_async, accepted, catch_all)

    def hints(self) -> dict[str, Any]:
        target: Any = self.fn
        while hasattr(target, "func") and hasattr(target, "args"):  # functools.partial
            target = target.func
        if not inspect.isroutine(target) and not inspect.isclass(target):
            target = type(target).__call__
        try:
            return get_type_hints(inspect.unwrap(target), include_extras=True)
        except NameError as error:
            raise self.error(
                f"an annotation cannot be resolved: {error}; define or import it at the top of the module"
            ) from error
        except TypeError as error:
            raise self.error(f"its annotations cannot be read: {error}") from error

    def body(self, annotation: Any, parameter: str) -> Any:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        if annotation in (Context, SyncContext):
            raise self.error(f"its first parameter {parameter!r} is the body; put the context second")
        if annotation is inspect.Parameter.empty:
            if self.only is not None:
                return self.only
            if self.source.types:
                return Union[self.source.types]  # noqa: UP007 - built at run time
            raise self.error(
                f"its first parameter {parameter!r} has no annotation and {self.source} declares no types: "
                "say what the body is, such as a pydantic model, `dict`, `str`, `bytes` or `Message`"
            )
        return annotation

    def filler(self, parameter: inspect.Parameter, annotation: Any, is_async: bool) -> Filler | None:
        name = parameter.name
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            return None
        if get_origin(annotation) in (
            Union,
            types.UnionType,
        ):  # `Context | None = None`, so that tests can leave it out
            known = [arg for arg in get_args(annotation) if arg in (Context, SyncContext, Message)]
            annotation = known[0] if len(known) == 1 else annotation
        if annotation is Context:
            if not is_async:
                raise self.error(
                    f"{name}: Context, but it is a plain function, which runs in a thread: ask SyncContext"
                )
            return "context"
        if annotation is SyncContext:
            if is_async:
                raise self.error(f"{name}: SyncContext, but it is an async function: ask Context")
            return "context"
        if annotation is Message:
            return "message"
        if parameter.default is not inspect.Parameter.empty:
            return None
        wanted = "SyncContext" if not is_async else "Context"
        shown = "no annotation" if annotation is None else f"the annotation {_shown(annotation)}"
        raise self.error(
            f"parameter {name!r} has {shown}, which nothing can fill: annotate it with {wanted} or Message, "
            "or give it a default"
        )

    def accepted(self, body: Any) -> tuple[dict[str, Any], bool]:
        declared = self.source.types
        members = get_args(body) if get_origin(body) in (Union, types.UnionType) else (body,)
        catch_all = any(_plain(member) in _CATCH_ALL for member in members)
        if self.only is not None:
            if declared and self.only not in declared:
                raise self.error(f"only={self.only.__name__}, but {self.source} carries {_names(declared)}")
            if not catch_all and not any(_takes(member, self.only) for member in members):
                raise self.error(f"only={self.only.__name__}, but its body is {_shown(body)}: make them agree")
            target = self.only if Message not in members else Message
            return dict.fromkeys(type_ids(self.only), target), False
        if not declared:
            if catch_all:
                return {}, True
            named = [member for member in members if isinstance(member, type)]
            return {id: member for member in named for id in type_ids(member)}, False
        if catch_all:
            if not any(_takes(member, kind) for member in members for kind in declared) and str in members:
                raise self.error(f"its body is {_shown(body)}, but {self.source} carries {_names(declared)}")
            return {}, True
        taken = [kind for kind in declared if any(_takes(member, kind) for member in members)]
        if not taken:
            raise self.error(f"its body is {_shown(body)}, but {self.source} carries {_names(declared)}")
        missing = [kind for kind in declared if kind not in taken]
        if missing:
            raise self.error(
                f"its body is {_shown(body)}, but {self.source} carries {_names(missing)} as well: "
                f"say only={taken[0].__name__}, or take the union"
            )
        return {id: kind for kind in taken for id in type_ids(kind)}, False


def _plain(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _takes(member: Any, kind: type) -> bool:
    member = _plain(member)
    return member is kind or (isinstance(member, type) and issubclass(kind, member))


def _names(kinds: Any) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _shown(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(_shown(arg) for arg in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
