"""What strangers import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import atlas_sdk
from atlas_sdk import aio, client, errors, guards
from atlas_sdk.guards import methods

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


def test_both_clients_have_the_same_operations() -> None:
    def operations(module: object, prefix: str) -> dict[str, set[str]]:
        return {
            name.removeprefix(prefix): {attribute for attribute in vars(kind) if not attribute.startswith("_")}
            for name, kind in vars(module).items()
            if inspect.isclass(kind) and name in module.__all__ and not name.endswith("Atlas")
        }

    assert operations(client, "") == operations(aio, "Async")
    same = {name for name in vars(client.Atlas) if not name.startswith("_")}
    assert same <= {name for name in vars(aio.AsyncAtlas) if not name.startswith("_")}


def test_operations_show_their_own_help() -> None:
    text = inspect.getdoc(client.Memory.snapshot)
    assert text is not None
    assert text.startswith("Append a version of a memory file")
    assert list(inspect.signature(client.Memory.snapshot).parameters)[:2] == ["project", "path"]


@pytest.mark.parametrize("module", [client, aio, methods, guards], ids=["blocking", "asyncio", "methods", "guards"])
def test_every_operation_is_documented(module: object) -> None:
    for name in module.__all__:
        for attribute, value in vars(getattr(module, name)).items():
            if not attribute.startswith("_") and not inspect.ismemberdescriptor(value):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_types_are_shipped() -> None:
    assert (Path(atlas_sdk.__file__).parent / "py.typed").is_file()
