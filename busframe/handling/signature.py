"""What a handler takes, read once at registration: a mistake is an error there, and not at the first message."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from busframe.errors import HandlerSignatureError
from busframe.handling.context import Context, SyncContext
from busframe.model.destination import SourceAddress
from busframe.model.message import Message
from busframe.model.types import type_ids

Filler: TypeAlias = Literal["context", "message"]

_CATCH_ALL = (bytes, str, dict, list, Message, Any, object)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NONE: Any = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Signature:
    """What a handler takes.

    Attributes:
        body: what a message is decoded to whose type is none of ``types``: the annotation of its first parameter, or
            that part of it which takes anything. ``Message`` asks for no decoding, of any type.
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
        if inspect.isclass(self.fn):
            raise self.error("it is a class: register a function, or an instance that can be called")
        is_async = self.is_async()
        try:
            parameters = list(inspect.signature(self.fn).parameters.values())
        except (TypeError, ValueError, NameError) as error:
            raise self.error(f"its parameters cannot be read: {error}") from error
        if not parameters or parameters[0].kind not in _POSITIONAL:
            raise self.error("it needs a first parameter for the body, such as `order: Order`")
        if parameters[0].name in ("self", "cls") and len(parameters) > 1:
            raise self.error(
                f"its first parameter is {parameters[0].name!r}: it is a method, so register it when there is an "
                "instance: bus.handle(source)(instance.method)"
            )
        annotations = self.annotations(parameters)
        body = self.body(annotations[parameters[0].name], parameters[0].name)
        positional: list[Filler] = []
        named: dict[str, Filler] = {}
        skipped: str | None = None
        for parameter in parameters[1:]:
            filler = self.filler(parameter, annotations[parameter.name], is_async)
            if filler is None:
                skipped = skipped or parameter.name
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                named[parameter.name] = filler
            elif skipped is None:
                positional.append(filler)
            elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise self.error(
                    f"parameter {parameter.name!r} can only be given by position: put it before {skipped!r}"
                )
            else:
                named[parameter.name] = filler
        accepted, rest = self.accepted(body)
        return Signature(
            body if rest is _NONE else rest, tuple(positional), named, is_async, accepted, rest is not _NONE
        )

    def is_async(self) -> bool:
        own = self.fn
        while isinstance(own, functools.partial):
            own = own.func
        called = own if inspect.isroutine(own) else type(own).__call__
        wrapped = inspect.unwrap(own)
        if any(
            inspect.isasyncgenfunction(kind) or inspect.isgeneratorfunction(kind) for kind in (own, called, wrapped)
        ):
            raise self.error("it is a generator: return instead of yield, and publish through the context")
        is_async = inspect.iscoroutinefunction(own) or inspect.iscoroutinefunction(called)
        if not is_async and inspect.iscoroutinefunction(wrapped):
            # It would run in a thread, make a coroutine there that nobody awaits, and be taken for a success.
            raise self.error(
                "it is async, and what is around it is a plain function: make the decorator's wrapper "
                "`async def` and `return await` in it"
            )
        return is_async

    def annotations(self, parameters: list[inspect.Parameter]) -> dict[str, Any]:
        target: Any = self.fn
        while isinstance(target, functools.partial):
            target = target.func
        target = inspect.unwrap(target)
        if not inspect.isroutine(target):
            target = inspect.unwrap(type(target).__call__)
        # One by one: what is returned is never filled, and may name what only type checkers import.
        return {
            parameter.name: self.annotation(parameter, getattr(target, "__globals__", {})) for parameter in parameters
        }

    def annotation(self, parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
        name, annotation = parameter.name, parameter.annotation
        if annotation is _NONE or parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            return _NONE
        try:
            return get_type_hints(SimpleNamespace(__annotations__={name: annotation}), names, include_extras=True)[name]
        except NameError as error:
            raise self.error(
                f"the annotation of {name!r} cannot be resolved: {error}; define or import it at the top of the "
                "module, and not under TYPE_CHECKING"
            ) from error
        except Exception as error:
            raise self.error(f"the annotation of {name!r} cannot be read: {error}; correct it") from error

    def body(self, annotation: Any, parameter: str) -> Any:
        if any(member in (Context, SyncContext) for member in _members(annotation)):
            raise self.error(f"its first parameter {parameter!r} is the body; put the context second")
        if annotation is _NONE:
            if self.only is not None:
                return self.only
            if self.source.types:
                return Union[self.source.types]  # noqa: UP007 - built at run time
            raise self.error(
                f"its first parameter {parameter!r} has no annotation and {self.source} declares no types: "
                "say what the body is, such as a pydantic model, `dict`, `str`, `bytes` or `Message`"
            )
        members = _members(annotation)
        if Message in members:
            if len(members) > 1:
                raise self.error(
                    f"its body is {_shown(annotation)}: `Message` is a body that is not decoded, so take it alone, or "
                    "as another parameter"
                )
            return Message
        return annotation

    def filler(self, parameter: inspect.Parameter, annotation: Any, is_async: bool) -> Filler | None:
        name = parameter.name
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            return None
        # Of a union too: `Context | None = None`, so that tests can leave it out.
        known = [member for member in _members(annotation) if member in (Context, SyncContext, Message)]
        filled = known[0] if len(known) == 1 else annotation
        if filled is Context:
            if not is_async:
                raise self.error(
                    f"{name}: Context, but it is a plain function, which runs in a thread: ask SyncContext"
                )
            return "context"
        if filled is SyncContext:
            if is_async:
                raise self.error(f"{name}: SyncContext, but it is an async function: ask Context")
            return "context"
        if filled is Message:
            return "message"
        if parameter.default is not _NONE:
            return None
        wanted = "SyncContext" if not is_async else "Context"
        shown = "no annotation" if annotation is _NONE else f"the annotation {_shown(annotation)}"
        raise self.error(
            f"parameter {name!r} has {shown}, which nothing can fill: annotate it with {wanted} or Message, "
            "or give it a default"
        )

    def accepted(self, body: Any) -> tuple[dict[str, Any], Any]:
        """(message type → what its body is decoded to, what all others are decoded to, if it takes them)"""
        declared = self.source.types
        members = _members(body)
        anything = [member for member in members if _plain(member) in _CATCH_ALL]
        only = self.only
        owners: dict[str, type] = {}
        for kind in declared:
            for id in type_ids(kind):
                if owners.setdefault(id, kind) is not kind:
                    raise self.error(
                        f"{self.source} carries two classes that are called {id!r} on the wire: give one of them "
                        "another name with @message_type"
                    )
        if only is not None:
            if not isinstance(only, type):
                raise self.error(f"only={only!r} must be a class, one of those that {self.source} carries")
            if declared and only not in declared:
                raise self.error(f"only={only.__name__}, but {self.source} carries {_names(declared)}")
            target = _target(body, members, only)
            if target is _NONE:
                if not anything:
                    raise self.error(f"only={only.__name__}, but its body is {_shown(body)}: make them agree")
                target = only if _plain(anything[0]) in (Any, object) else anything[0]
            return dict.fromkeys(type_ids(only), target), _NONE
        targets = {kind: _target(body, members, kind) for kind in declared}
        if not declared:
            targets = {member: _target(body, members, member) for member in members if isinstance(member, type)}
        targets = {kind: target for kind, target in targets.items() if target is not _NONE}
        if anything:
            if declared and not targets and str in anything:
                raise self.error(f"its body is {_shown(body)}, but {self.source} carries {_names(declared)}")
            if all(_plain(kind) in _CATCH_ALL for kind in targets):
                targets = {}
            elif declared and len(targets) == len(declared) and len(targets) == len(members):
                anything = []  # a union of exactly what is declared, some of it builtin: nothing else is asked for
        by_id = {id: target for kind, target in targets.items() for id in type_ids(kind)}
        if anything:
            return by_id, body if len(members) == 1 else Union[tuple(anything)]  # noqa: UP007 - built at run time
        if declared and not targets:
            raise self.error(f"its body is {_shown(body)}, but {self.source} carries {_names(declared)}")
        missing = [kind for kind in declared if kind not in targets]
        if missing:
            raise self.error(
                f"its body is {_shown(body)}, but {self.source} carries {_names(missing)} as well: "
                f"say only={next(iter(targets)).__name__}, or take the union"
            )
        return by_id, _NONE


def _members(annotation: Any) -> tuple[Any, ...]:
    """What a union is of, without what is noted beside it; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(each for member in get_args(annotation) for each in _members(member))
    return (annotation,)


def _target(body: Any, members: tuple[Any, ...], kind: type) -> Any:
    """What messages of a class are decoded to, if one of the members takes them: what the application noted counts."""
    if kind in members:
        return body if len(members) == 1 else kind
    return kind if any(_takes(member, kind) for member in members) else _NONE


def _plain(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _takes(member: Any, kind: type) -> bool:
    member = _plain(member)
    if not isinstance(member, type) or member is object:
        return False
    try:
        return issubclass(kind, member)
    except TypeError:  # a TypedDict or a protocol is not to be asked
        return False


def _names(kinds: Any) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _shown(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_shown(arg) for arg in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
