"""An error of each class of the tree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import Parameter, signature
from typing import Any

from atlas_sdk.errors import AtlasError

#: Arguments for the constructors of errors, by the names of their parameters.
SAMPLES: dict[str, Any] = {
    "candidates": ("a1", "a2"),
    "asked": Decimal("0.10"),
    "remaining": Decimal("0.07"),
    "limit": Decimal(5),
    "retry_after": timedelta(seconds=3),
    "resets_at": datetime(2026, 7, 1, tzinfo=UTC),
    "holders": ("web-1",),
    "waited": timedelta(seconds=5),
    "held": None,
    "dimension": "cost",
    "epoch": 7,
    "first": 1,
    "last": 9,
    "found": 1,
    "wanted": 2,
    "paths": ("a.py",),
    "size": 12,
    "sqlstate": "23505",
}


def kinds(root: type[AtlasError] = AtlasError) -> Iterator[type[AtlasError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def made(kind: type[AtlasError]) -> AtlasError:
    if "__init__" not in {name for base in kind.__mro__ if issubclass(base, AtlasError) for name in vars(base)}:
        return kind("what happened")
    positional, named = [], {}
    for name, parameter in list(signature(kind).parameters.items()):
        value = SAMPLES.get(name, f"a {name}")
        if parameter.kind is Parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            positional.append(value)
    return kind(*positional, **named)
