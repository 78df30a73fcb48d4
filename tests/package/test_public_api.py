"""The public names: modules, classes and errors that users import."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import math
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import reference

import atlas_sdk
from atlas_sdk import _operations, aio, client, errors, files, guards, maintenance, results, topics
from atlas_sdk.guards import methods
from atlas_sdk.guards.block import Block

ROOT = Path(__file__).parents[2]
HEAVY = {"psycopg", "psycopg_pool", "watchdog", "rich", "asyncio"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_all_is_sorted_and_importable() -> None:
    assert atlas_sdk.__all__ == sorted(atlas_sdk.__all__, key=lambda name: (not name.isupper(), name))
    assert dir(atlas_sdk) == sorted(atlas_sdk.__all__)
    for name in atlas_sdk.__all__:
        assert getattr(atlas_sdk, name) is not None
    with pytest.raises(AttributeError):
        atlas_sdk.nothing  # noqa: B018


def test_the_top_is_small_enough_to_be_read() -> None:
    assert len(atlas_sdk.__all__) <= 75
    assert atlas_sdk.__version__ == importlib.metadata.version("atlasengine")


def test_every_result_is_public() -> None:
    places = (atlas_sdk, maintenance, results, files)
    public = {id(getattr(place, name)) for place in places for name in place.__all__}
    for operation in reference.operations().values():
        for kind in named_in(get_type_hints(operation)["return"]):
            assert not kind.__module__.startswith("atlas_sdk.") or id(kind) in public, kind


def named_in(hint: Any) -> Iterator[type]:
    """Yield the classes in the type of a result."""
    if inspect.isclass(hint) and not get_args(hint):
        yield hint
    for part in get_args(hint):
        yield from named_in(part)


def test_no_two_classes_have_one_name() -> None:
    """Exceptions are classes for two providers, and for two systems."""
    found = Counter(
        node.name
        for package in ("atlas_sdk", "watcher")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    twice = {name for name, number in found.items() if number > 1}
    assert twice == {"AsyncStream", "Stream", "EmbeddedServer"}


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(atlas_sdk.__all__)
    assert errors.__all__ == sorted(errors.__all__)
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__, f"{name} is missing from the tree in the docstring"


def test_import_is_instant() -> None:
    assert not loaded_by("import atlas_sdk") & HEAVY


def test_guards_need_no_driver() -> None:
    assert not loaded_by("import atlas_sdk.guards") & (HEAVY - {"asyncio"})


def test_both_clients_have_the_same_guards() -> None:
    def parameters(face: type) -> dict[str, list[str]]:
        methods = {name: found for name, found in vars(face).items() if not name.startswith("_")}
        return {name: list(inspect.signature(found).parameters) for name, found in methods.items()}

    assert parameters(methods.GuardMethods) == parameters(methods.AsyncGuardMethods)
    assert {"guard", "slot", "lease"} <= parameters(methods.GuardMethods).keys()
    for blocking, awaited in ((guards.Guard, guards.AsyncGuard), (guards.Slot, guards.AsyncSlot)):
        assert {name for name in dir(blocking) if not name.startswith("_")} == {
            name for name in dir(awaited) if not name.startswith("_")
        }


class _NoRunner:
    retries = 0

    def run(self, plan: object) -> None:
        """Run nothing."""


def test_guards_slots_leases_and_calls_show_what_a_user_may_call_and_nothing_else() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    user = atlas_sdk.User(
        id=uuid.uuid4(), email="a@b.c", name="", plan="free", email_verified=False, created_at=now, updated_at=now
    )

    def shown(thing: object) -> set[str]:
        return {name for name in dir(thing) if not name.startswith("_")}

    runner: Any = _NoRunner()
    backend: Any = object()
    amounts = {"id", "epoch", "tokens", "cost"}
    leased = {"reserve", "guard", "extend", "give_back", "close"}
    for lease in (guards.Lease(runner, user, tokens=10), guards.AsyncLease(runner, user, tokens=10)):
        assert shown(lease) == leased
    block = Block(id=uuid.uuid4(), epoch=1, tokens=10, nano=0, requests=1, deadline=math.inf, used_at=0.0)
    call = guards.LeaseCall(lease._core, block, 10, 0)
    assert shown(call) == amounts | {"cost_nano", "settle", "release"}
    call.release()
    told = {"progress", "settle", "release", "extend", "settlement", "repeated", "lost", "check"}
    for guard in (guards.Guard(backend, user, {}), guards.AsyncGuard(backend, user, {})):
        assert shown(guard) == amounts | told
    for slot in (guards.Slot(backend, user), guards.AsyncSlot(backend, user)):
        assert shown(slot) == {"id", "epoch", "lost", "check"}


def test_both_clients_are_the_same_but_for_their_names() -> None:
    for kind in (topics.Topics, topics.Transaction):
        awaited = getattr(topics, f"Async{kind.__name__}")
        text = re.sub("Async", "", inspect.getsource(awaited))
        assert text == inspect.getsource(kind)
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (client.Atlas, aio.AsyncAtlas)]
    assert public[1] - public[0] == {"connect"}
    assert public[0] <= public[1]


@pytest.mark.parametrize(
    "module", [client, aio, topics, _operations, methods, guards], ids=lambda module: module.__name__
)
def test_every_operation_is_documented(module: object) -> None:
    for name in module.__all__:
        for attribute, value in vars(getattr(module, name)).items():
            if not attribute.startswith("_") and not inspect.ismemberdescriptor(value):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_types_are_shipped() -> None:
    assert (Path(atlas_sdk.__file__).parent / "py.typed").is_file()
