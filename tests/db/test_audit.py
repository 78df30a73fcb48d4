"""Each operation that changes something writes one event, with a documented type and the origin of the request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import reference
from audit_cases import CASES, ORIGIN, Case, World, build, case, preview, project, session, user

from atlas_sdk import Atlas

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")
NOBODY = UUID(int=0)


def test_every_operation_that_is_on_record_is_tried() -> None:
    # The excluded operation has a test of its own below, because it writes several events.
    assert {case.operation for case in CASES} == set(reference.EVENTS) - {"maintenance.run_if_due"}


def _meta_of_document() -> dict[str, set[str]]:
    """Return the documented keys of `meta`, by event type."""
    text = reference.DOCUMENT.read_text("utf-8").partition("\n## Events")[2].partition("\n## ")[0]
    kinds = {}
    before: set[str] = set()
    for names, words in reference.cells(text, 2):
        keys = before if words.endswith("the same") else set(re.findall(r"`([a-z0-9_]+)`", words))
        kinds |= dict.fromkeys(re.findall(r"`([a-z]+\.[a-z_]+)`", names), keys)
        before = keys
    return kinds


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case.event}")
def test_an_operation_is_on_record_once(client: Any, migrated: Any, folder: Path, case: Case) -> None:
    world = World(client, migrated, folder)
    act = case.prepare(world)
    before = [row[0] for row in migrated.execute("SELECT id FROM events").fetchall()]
    act(world.request)
    found = migrated.execute(
        "SELECT type, host(ip), user_agent, user_id, meta FROM events WHERE NOT id = ANY(%s)", [before]
    ).fetchall()
    assert [row[:3] for row in found] == [(case.event, *ORIGIN)]
    ((_, _, _, user_id, meta),) = found
    assert (user_id == NOBODY) is case.nobody
    assert meta["source"] == "sdk"
    if case.operation != "events.log":
        assert case.event in reference.EVENTS[case.operation]
        # The other fields that a change of status sets are in `meta` under their own names.
        told = set(meta) - {"source", "login", "tool", "host_port", "container_id", "network_id", "health"}
        assert told <= _meta_of_document()[case.event], "the document does not tell of it"


def test_each_job_of_maintenance_is_on_record_once(client: Any, migrated: Any, folder: Path) -> None:
    world = World(client, migrated, folder)
    assert world.request.maintenance.run_if_due() is not None
    found = migrated.execute("SELECT type, host(ip), user_agent FROM events").fetchall()
    assert sorted(found) == sorted((kind, *ORIGIN) for kind in reference.EVENTS["maintenance.run_if_due"])


#: Operations that cannot be part of a transaction.
APART = {name for name in reference.EVENTS if name.startswith(("quotas.", "maintenance."))} | {
    "memory.restore",
    "memory.undo",
    "memory.redo",
}
JOINING = [case for case in CASES if case.operation not in APART]


@pytest.mark.parametrize("case", JOINING, ids=lambda case: f"{case.operation}-{case.event}")
def test_an_operation_that_is_rolled_back_is_not_on_record(
    atlas: Atlas, migrated: Any, folder: Path, case: Case
) -> None:
    world = World(atlas, migrated, folder)
    act = case.prepare(world)
    before = migrated.execute("SELECT count(*) FROM events").fetchone()
    with pytest.raises(ZeroDivisionError), atlas.transaction() as tx:
        act(tx)
        1 / 0  # noqa: B018
    assert migrated.execute("SELECT count(*) FROM events").fetchone() == before


SILENT: dict[str, Callable[[World], Callable[[Any], object]]] = {
    made.operation: made.prepare
    for made in [
        case("sessions.touch", "", lambda to, s: to.sessions.touch(s), session),
        case("projects.touch", "", lambda to, p: to.projects.touch(p), project),
        case("previews.touch", "", lambda to, p: to.previews.touch(p), preview("running")),
        case("builds.append_log", "", lambda to, b: to.builds.append_log(b, "line\n"), build),
        case("memory.snapshot", "", lambda to, p: to.memory.snapshot(p, "CLAUDE.md"), project),
        case("memory.capture", "", lambda to, p: to.memory.capture(p), project),
        case("usage.log", "", lambda to, u: to.usage.log(u, kind="minutes", amount=1), user),
        case("quotas.reserve", "", lambda to, u: to.quotas.reserve(u, tokens=5), user),
        case("quotas.add_tokens", "", lambda to, u: to.quotas.add_tokens(u, 5), user),
        case("quotas.hit", "", lambda to, u: to.quotas.hit(u), user),
    ]
}


@pytest.mark.parametrize("operation", SILENT)
def test_what_is_a_record_itself_writes_no_event(client: Any, migrated: Any, folder: Path, operation: str) -> None:
    assert operation in reference.SILENT
    world = World(client, migrated, folder)
    act = SILENT[operation](world)
    before = migrated.execute("SELECT count(*) FROM events").fetchone()
    act(world.request)
    assert migrated.execute("SELECT count(*) FROM events").fetchone() == before
