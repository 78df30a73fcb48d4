"""Every named statement is valid on the migrated schema, and every one is used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

import atlas_sdk
from atlas_sdk._sql import Statement, read_statements, statements, topics

ALL = [statement for topic in topics() for statement in read_statements(topic).values()]


def numbered(text: str) -> str:
    """Return the statement with $1, $2 … as the driver sends it."""
    query = PostgresQuery(Transformer())
    names = set(re.findall(r"%\((\w+)\)s", text))
    query.convert(text, dict.fromkeys(names) if names else None)
    return query.query.decode()


@pytest.mark.every_server
def test_every_statement_prepares(migrated: psycopg.Connection[Any]) -> None:
    for number, statement in enumerate(ALL):
        command = numbered(statement.text)
        # The SQL command PREPARE does not accept CALL.
        prepared = migrated.pgconn.prepare(f"s{number}".encode(), command.encode())
        assert prepared.status == pq.ExecStatus.COMMAND_OK, f"{statement.name}: {prepared.error_message.decode()}"


#: Statements that read a page of a large table, or few rows of it, with the index that finds them in their order.
BY_INDEX = {
    "purges.due_periods": "idx_user_quotas_period_end",
    "purges.sessions": "idx_sessions_expires",
    "purges.previews": "idx_previews_stopped",
    "purges.failed_previews": "idx_previews_failed",
    "purges.events": "idx_events_created",
    "events.recent_of_project": "idx_events_project",
    "events.search_in_project": "idx_events_project",
    "projects.list_all": "idx_projects_created",
    "projects.list_all_by_use": "idx_projects_updated",
}


@pytest.mark.parametrize("name", BY_INDEX)
def test_pages_are_found_by_an_index(migrated: psycopg.Connection[Any], name: str) -> None:
    (statement,) = [one for one in ALL if one.name == name]
    command = numbered(statement.text)
    nulls = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", command))))
    migrated.execute(f"PREPARE page AS {command}")
    # Ask for the plan that serves all parameters. The tables are empty, so forbid reading them as a whole.
    migrated.execute("SET plan_cache_mode = force_generic_plan")
    migrated.execute("SET enable_seqscan = off")
    migrated.execute("SET enable_bitmapscan = off")
    plan = "\n".join(line for (line,) in migrated.execute(f"EXPLAIN EXECUTE page({nulls})").fetchall())
    # No step between the index and the limit may read all rows. Only rows of the same moment may be sorted.
    between = r"(\s+-> +(LockRows|Incremental Sort) .*\n(\s+(Sort|Presorted) Key: .*\n)*)*"
    found = rf"Limit .*\n{between}\s+-> +Index (Only )?Scan using {BY_INDEX[name]} .*\n\s+Index Cond: "
    assert re.search(found, plan), plan


#: Topics whose statements read PostgreSQL's own catalogue, which is not distributed.
OF_CATALOGUE = {"provision", "doctor", "backups", "isolation", "schema"}


def test_statements_are_parametrized_and_listed_by_column() -> None:
    for statement in ALL:
        assert "%s" not in statement.text, statement.name
        assert not re.search(r"SELECT\s+\*", statement.text), statement.name
        assert ";" not in re.sub(r"--.*", "", statement.text), f"{statement.name} holds two statements"


#: Constructs that a cluster refuses or gets wrong, by what they match in a statement or in the body of a function.
REFUSED_BY_CLUSTERS = {
    "ctid names rows of every shard": r"\bctid\b",
    "a simple CASE in an UPDATE compares with NULL": r"UPDATE (?:(?!;).)*SET (?:(?!;).)*CASE \w[\w.]* WHEN",
    "a volatile function in UPDATE … SET": (
        r"UPDATE [^;]*? SET (?:(?!\bWHERE\b|;).)*\b(clock_timestamp|random|gen_random_uuid)\("
    ),
    "RETURNING without an alias after INSERT … SELECT": (
        r"INSERT INTO \w+ \((?:(?!\bVALUES\b|\bINSERT\b|;).)*\bSELECT\b(?:(?!\bINSERT\b|;).)*RETURNING \w+(,|\s|$)"
    ),
    "an outer join without a condition": r"\bON true\b",
}


@pytest.mark.parametrize("construct", REFUSED_BY_CLUSTERS)
def test_what_a_cluster_refuses_stays_away(migrated: psycopg.Connection[Any], construct: str) -> None:
    bodies = migrated.execute(
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosrc IS NOT NULL"
    ).fetchall()
    texts = {statement.name: statement.plain for statement in ALL if statement.name.split(".")[0] not in OF_CATALOGUE}
    texts |= {name: re.sub(r"--[^\n]*", "", body) for name, body in bodies}
    assert len(texts) > 200
    found = [name for name, text in texts.items() if re.search(REFUSED_BY_CLUSTERS[construct], text, re.DOTALL)]
    assert found == []


def test_every_statement_is_used() -> None:
    source = "\n".join(file.read_text("utf-8") for file in Path(atlas_sdk.__file__).parent.rglob("*.py"))
    used = set(re.findall(r'sql\["(\w+)"\]', source)) | set(re.findall(r'statements\("\w+"\)\["(\w+)"\]', source))
    unused = [statement.name for statement in ALL if statement.name.split(".")[1] not in used]
    assert unused == []


def test_a_statement_is_found_by_its_name() -> None:
    assert statements("users")["get"] == Statement("users.get", statements("users")["get"].text)
    with pytest.raises(KeyError):
        statements("users")["nothing"]
