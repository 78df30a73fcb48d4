"""docs/operations.md: each example of its first table runs on both clients, and its tables are complete and true."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference
from guard_adapter import QuotaClient
from original_checks import CHECKS
from original_examples import ROWS, World

import atlas_sdk
from atlas_sdk import Atlas, topics
from atlas_sdk._namespaces import Namespace


@pytest.fixture(params=["blocking", "asyncio"])
def world(request: pytest.FixtureRequest, dsn: str) -> Iterator[World]:
    client = QuotaClient(request.param, dsn)
    with Atlas.open(dsn) as see:
        yield World(client, dsn, see)
    client.close()


@pytest.mark.parametrize("name", ROWS)
def test_an_example_does_what_the_original_did(world: World, name: str) -> None:
    assert name in CHECKS, "a row of the document without a test"
    CHECKS[name](world)


# The tables.


def test_every_name_of_the_original_is_in_the_table() -> None:
    original = """createUser findUserByEmail findUserById getUserQuotas updateTokenUsage checkUserQuota
        resetMonthlyQuotas createProject getProjectById getUserProjects updateProjectMemory
        createBuild updateBuildStatus getProjectBuilds
        createPreview updatePreviewStatus getActivePreview stopPreview createMemorySnapshot getProjectMemorySnapshots
        logUsage logEvent getRecentEvents db.query db.transaction db.healthCheck init-db.sh"""
    assert set(original.split()) <= set(ROWS)
    assert set(ROWS) == set(CHECKS), "the table and the tests differ"
    assert len(ROWS) == len(reference.original_names()), "a name stands there twice"


def test_the_table_names_what_its_examples_call() -> None:
    found = reference.operations()
    for row in ROWS.values():
        called = set(re.findall(r"(?:atlas|tx)\.(\w+\.\w+)\(", row.example))
        named = re.findall(r"`?(\w+\.\w+)`?", row.ours)
        assert set(named) <= set(found), row
        assert not named or set(named) <= called, row


def test_every_operation_is_in_the_reference_as_it_is() -> None:
    text = reference.DOCUMENT.read_text("utf-8")
    assert text == reference.written(text), "run: python tests/reference.py"


def test_every_topic_of_a_client_is_in_the_reference(atlas: Atlas) -> None:
    topics = {name: type(value) for name, value in vars(atlas).items() if isinstance(value, Namespace)}
    assert topics == reference.TOPICS


def test_every_operation_is_on_record_silent_or_a_reading() -> None:
    kinds = [set(reference.EVENTS), set(reference.SILENT), reference.READS]
    assert sum(map(len, kinds)) == len(set.union(*kinds)), "one is in two of them"
    assert set.union(*kinds) == set(reference.operations()), "say in tests/reference.py what a new one writes"


def test_both_clients_have_the_same_signatures() -> None:
    for topic, namespace in reference.TOPICS.items():
        awaited = getattr(topics, f"Async{namespace.__name__}")
        for name, operation in reference.operations().items():
            if name.startswith(f"{topic}."):
                other = getattr(awaited, name.partition(".")[2])
                assert inspect.signature(other).parameters == inspect.signature(operation).parameters, name
                assert inspect.getdoc(other), name


def _written_in_python() -> tuple[set[str], set[str]]:
    """Return the event types in the source, and the constant beginnings of the types that it composes."""
    whole, begun = set(), set()
    package = Path(atlas_sdk.__file__).parent
    for file in [*package.rglob("*.py"), *(package.parent / "watcher").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("record", "record_from")):
                arguments = [*node.args]
            elif isinstance(node, ast.Call):
                arguments = [keyword.value for keyword in node.keywords if keyword.arg == "event"]
            else:
                continue
            for part in arguments:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    whole.add(part.value)
                elif isinstance(part, ast.JoinedStr) and isinstance(part.values[0], ast.Constant):
                    begun.add(str(part.values[0].value))
    return {name for name in whole if re.fullmatch(r"[a-z]+\.[a-z_]+", name)}, begun


def test_every_event_type_is_documented_and_written() -> None:
    documented = reference.event_types()
    assert len(documented) == len(set(documented))
    whole, begun = _written_in_python()
    sql = "".join(file.read_text("utf-8") for file in Path(reference.DOCUMENT).parents[1].glob("sql/**/*.sql"))
    for statement in re.findall(r"INSERT INTO events.*?;", sql, re.DOTALL):
        whole |= set(re.findall(r"'([a-z]+\.[a-z_]+)'", statement))
    assert {"user.created", "preview.created", "quota.threshold"} <= whole
    assert begun == {"preview.", "memory.", "maintenance."}
    put_together = {name for name in documented if name.startswith(tuple(begun)) and name not in whole}
    assert set(documented) == whole | put_together
    told = {kind for kinds in reference.EVENTS.values() for kind in kinds if "." in kind}
    # The database itself writes this event, when usage reaches a share of a month's limit.
    assert set(documented) == told | {"quota.threshold"}
