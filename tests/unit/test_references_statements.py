"""The statements that a reference costs: one look-up for each name, and none for a reserved name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from atlas_sdk import NotFound, Project
from atlas_sdk._plan import Query, Result
from atlas_sdk.ops.references import resolve

NOW = datetime(2026, 2, 3, tzinfo=UTC)
PROJECT = Project(
    id=UUID(int=1), user_id=UUID(int=2), session_id="app", name="app", path="/srv/app", status="active",
    created_at=NOW, updated_at=NOW,
)  # fmt: skip


def asked(reference: str) -> list[tuple[str, Any]]:
    """Return the statements, each with the name of its checkpoint. "good" is the only checkpoint, without files."""
    plan, answer, statements = resolve(PROJECT, reference), None, []
    try:
        while True:
            effect = plan.send(answer)
            assert isinstance(effect, Query)
            name = effect.parameters.get("name")
            statement = effect.statement.name.rpartition(".")[2]
            statements.append((statement, name))
            rows = {"exists": [(name == "good",)], "now": [(NOW,)]}.get(statement, [])
            answer = Result(columns=("value",), rows=rows, count=len(rows))
    except (StopIteration, NotFound):
        return statements


@pytest.mark.parametrize(
    ("reference", "statements"),
    [
        ("", [("files", None)]),
        ("latest", [("files", None)]),
        ("a.md@latest", [("exists", "a.md@latest"), ("files", None)]),
        ("@{1h ago}", [("now", None), ("files_at", None)]),
        ("good", [("exists", "good"), ("files_of_checkpoint", "good")]),
        ("a.md@good", [("exists", "a.md@good"), ("exists", "good"), ("files_of_checkpoint", "good")]),
        (
            "a@b.md@good",
            [("exists", "a@b.md@good"), ("exists", "b.md@good"), ("exists", "good"), ("files_of_checkpoint", "good")],
        ),
        ("a.md@abcd", [("exists", "a.md@abcd"), ("exists", "abcd"), ("by_id_range", None)]),
    ],
)
def test_each_name_is_asked_for_once(reference: str, statements: list[tuple[str, str | None]]) -> None:
    assert asked(reference) == statements
