"""The signature of an operation as its callers see it, and the check that they pass the right kind of object."""

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from types import NoneType, UnionType
from typing import Any, Final, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from atlas_sdk.errors import InvalidInput

__all__ = ["annotations_of", "checked", "method_signature", "present_as", "without_methods", "wrong_kind"]

T = TypeVar("T")
P = ParamSpec("P")

_MODEL: Final = "atlas_sdk.model."
#: The position of a keyword-only parameter: no call has as many arguments.
_NO_POSITION: Final = sys.maxsize
_MISSING: Final = object()


def method_signature(operation: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of an operation, with the type of its result instead of the plan's generator."""
    result = get_type_hints(operation)["return"]
    if get_origin(result) is Generator:
        _, _, result = get_args(result)
    return inspect.signature(operation).replace(return_annotation=None if result is NoneType else result)


def annotations_of(signature: inspect.Signature) -> dict[str, Any]:
    """Return the annotations of a function with this signature."""
    given = {name: one.annotation for name, one in signature.parameters.items() if one.annotation is not one.empty}
    return {**given, "return": signature.return_annotation}


def present_as(
    method: Callable[P, T], operation: Callable[..., Any], signature: inspect.Signature, annotations: dict[str, Any]
) -> Callable[P, T]:
    """Give a method the name and docstring of an operation, and a signature; return it.

    This takes 2.0 µs, and `functools.update_wrapper` 4.9 µs. A client for one request has new methods.
    """
    method.__module__, method.__doc__ = operation.__module__, operation.__doc__
    method.__name__, method.__qualname__ = operation.__name__, operation.__qualname__
    method.__annotations__ = annotations
    method.__dict__ |= {"__wrapped__": operation, "__signature__": signature}
    return method


def checked(operation: Callable[P, T]) -> Callable[P, T]:
    """Return the operation with a check of its objects: a wrong one raises InvalidInput, not an AttributeError later.

    An id in the place of an object is the most common mistake. The check of one parameter adds 0.3 µs to a call.
    """
    rules = list(_rules(operation))
    if not rules:
        return operation

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for position, name, kinds in rules:
            given = args[position] if position < len(args) else kwargs.get(name, _MISSING)
            if not isinstance(given, kinds) and given is not _MISSING:
                raise wrong_kind(given, name, kinds)
        return operation(*args, **kwargs)

    return call


def _rules(operation: Callable[..., Any]) -> Iterator[tuple[int, str, tuple[type, ...]]]:
    """Yield position, name and types of each parameter that takes an object of the model."""
    hints = get_type_hints(operation)
    for number, parameter in enumerate(inspect.signature(operation).parameters.values()):
        hint = hints.get(parameter.name)
        parts = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
        kinds = tuple(part for part in parts if isinstance(part, type) and get_origin(part) is None)
        if len(kinds) == len(parts) and any(kind.__module__.startswith(_MODEL) for kind in kinds):
            position = _NO_POSITION if parameter.kind is parameter.KEYWORD_ONLY else number
            yield position, parameter.name, kinds


def wrong_kind(given: object, name: str, kinds: tuple[type, ...]) -> InvalidInput:
    """Return the error for an object of a wrong kind."""
    *most, last = (_shown(kind) for kind in sorted(kinds, key=lambda kind: kind is NoneType))
    wanted = f"{', '.join(most)} or {last}" if most else last
    return InvalidInput(f"{name} must be {wanted}, not {_shown(type(given))}", field=name)


def _shown(kind: type) -> str:
    if kind is NoneType:
        return "None"
    return f"{'an' if kind.__name__[0] in 'aeioAEIO' else 'a'} {kind.__name__}"


def without_methods(options: type) -> type:
    """Return a class with the name and docstring of a TypedDict, whose help() would show the methods of a dictionary.

    Only type checkers need the TypedDict itself.
    """
    return type(options.__name__, (), {"__doc__": options.__doc__, "__module__": options.__module__, "__slots__": ()})
