"""The kernel without a database. The tests run each step of a plan themselves."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import atlas_sdk
from atlas_sdk._plan import (
    Begin,
    Commit,
    Local,
    Plan,
    Query,
    Result,
    Rollback,
    atomic,
    execute,
    local,
    many,
    one_or_none,
)
from atlas_sdk._sql import Statement
from atlas_sdk.errors import NotFound

OPERATIONS = sorted((Path(atlas_sdk.__file__).parent / "ops").glob("*.py"))


def steps_of(plan: Plan[Any], *answers: object) -> tuple[list[object], Any]:
    """Send these answers to a plan; return the effects that it yielded and its result."""
    asked = [next(plan)]
    for answer in answers:
        try:
            asked.append(plan.send(answer))
        except StopIteration as stop:
            return asked, stop.value
    raise AssertionError(f"the plan is not over: it asks for {asked[-1]}")


def test_rows_become_objects_by_column_name() -> None:
    plan = many(Statement("t.s", "SELECT"), dict, user=1)
    asked, found = steps_of(plan, Result(("b", "a"), [(1, 2), (3, 4)], 2))
    assert asked == [Query(Statement("t.s", "SELECT"), {"user": 1})]
    assert found == [{"a": 2, "b": 1}, {"a": 4, "b": 3}]


def test_more_rows_than_expected_are_an_error() -> None:
    plan = one_or_none(Statement("t.s", "SELECT"), dict)
    next(plan)
    with pytest.raises(AssertionError, match=r"t\.s gave 2 rows"):
        plan.send(Result(("a",), [(1,), (2,)], 2))


def test_local_calls_carry_their_arguments() -> None:
    plan = local(int, "ff", base=16)
    asked = next(plan)
    assert isinstance(asked, Local)
    assert asked.call() == 255


def test_atomic_wraps_in_a_transaction() -> None:
    @atomic
    def plan() -> Plan[str]:
        yield from execute(Statement("t.s", "UPDATE"))
        return "done"

    asked, value = steps_of(plan(), None, Result((), [], 1), None)
    assert [type(effect) for effect in asked] == [Begin, Query, Commit]
    assert value == "done"


def test_an_error_of_ours_rolls_back_before_it_leaves() -> None:
    @atomic
    def plan() -> Plan[None]:
        yield from execute(Statement("t.s", "UPDATE"))
        raise NotFound("no", kind="x", name="y")

    running = plan()
    assert isinstance(next(running), Begin)
    assert isinstance(running.send(None), Query)
    assert isinstance(running.send(Result((), [], 0)), Rollback)
    with pytest.raises(NotFound):
        running.send(None)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


@cache
def _plans(file: Path) -> list[str]:
    """Return the names of the functions of a file that return plans."""
    return [
        node.name
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.FunctionDef) and _returns(node).endswith("]") and _returns(node).startswith("Plan[")
    ]


@pytest.mark.parametrize("file", OPERATIONS, ids=lambda file: file.stem)
def test_every_plan_is_delegated_to(file: Path) -> None:
    """`execute(…)` without `yield from` would silently do nothing. So every call of a plan must be delegated to or
    returned. A script yields whole plans."""
    tree = _tree(file)
    plans = {"many", "one", "one_or_none", "scalar", "execute", "local", "context"}
    for other in OPERATIONS:
        plans |= {name for name in _plans(other) if other == file or not name.startswith("_")}
    delegated = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.YieldFrom)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and not _is_plan(function):
            # A script yields plans. A function that only makes a plan returns it.
            handing_on = ast.Yield if _returns(function).startswith(("Generator[Plan[", "Script")) else ast.Return
            if handing_on is ast.Yield or _returns(function).startswith("Plan["):
                handed = [node.value for node in ast.walk(function) if isinstance(node, handing_on)]
                choices = [
                    part for whole in handed if isinstance(whole, ast.IfExp) for part in (whole.body, whole.orelse)
                ]
                delegated |= {id(node) for node in (*handed, *choices)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in plans and not _same_name_elsewhere(node):
                assert id(node) in delegated, f"{file.name}:{node.lineno}: {name}(…) without `yield from` does nothing"


def _returns(function: ast.FunctionDef) -> str:
    return "" if function.returns is None else ast.unparse(function.returns)


def _is_plan(function: ast.FunctionDef) -> bool:
    """Return whether a function is a plan. One that returns "Plan[…] | None" only makes a plan for its caller."""
    returns = _returns(function)
    return returns.startswith("Plan[") and returns.endswith("]")


def _same_name_elsewhere(call: ast.Call) -> bool:
    """Return whether a call is a method of another object with the name of a plan, such as dict.get."""
    module = (
        call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else None
    )
    modules = {operation.stem for operation in OPERATIONS}
    return isinstance(call.func, ast.Attribute) and module not in modules


@pytest.mark.parametrize("file", OPERATIONS, ids=lambda file: file.stem)
def test_operations_do_no_io_of_their_own(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"psycopg", "psycopg_pool", "random", "subprocess"}
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{file.name}:{node.lineno}: a bare except"
            assert "psycopg" not in ast.unparse(node.type)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"open", "time.time", "time.sleep", "datetime.now"}, (
                f"{file.name}:{node.lineno}: {called}"
            )
