"""The inventory: the objects that the migrations make, as a server's catalogue shows them.

`python tests/inventory.py` migrates a database on a fresh server and writes `sql/inventory.json` anew. A test compares
this file with the catalogue.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg.rows import dict_row
from servers import private_server

from atlas_sdk import Atlas
from atlas_sdk._sql import statements
from atlas_sdk.provision.inventory import FILE, Thing


def recorded(connection: psycopg.Connection[Any]) -> list[Thing]:
    """Return the objects in a freshly migrated database, in the order of the file."""
    with connection.cursor(row_factory=dict_row) as cursor:
        text, given = statements("provision")["inventory"].text, {"schema": "public", "role": "atlas_app"}
        rows = cursor.execute(text.encode(), given).fetchall()
    things = (Thing(row["kind"], row["name"], row["on_table"], row["rule"], row["making"]) for row in rows)
    return sorted(things, key=lambda thing: (thing.kind, thing.on_table or "", thing.name))


def written(things: list[Thing]) -> str:
    """Return the file's text, with one object on each line."""
    rows = ([thing.kind, thing.name, thing.on_table, thing.rule, thing.making] for thing in things)
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


if __name__ == "__main__":
    with private_server("bundled", "fsync=off") as server:
        Atlas.open(server.url(), migrate=True).close()
        with psycopg.connect(server.url()) as migrated:
            FILE.write_text(written(recorded(migrated)), "utf-8")
