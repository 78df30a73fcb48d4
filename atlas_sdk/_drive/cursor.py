"""Execute a statement with a cursor: the functions that both drivers share."""

import json
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg.adapt import Buffer, Dumper

from atlas_sdk._drive.arrays import ArrayDumper
from atlas_sdk._plan import Array, Json, Query
from atlas_sdk.errors import InvalidInput

__all__ = ["arguments", "columns_of"]

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _JsonDumper(Dumper):
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: Json) -> Buffer | None:
        try:
            return _to_json(obj.value).encode("utf-8", "backslashreplace")
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"not JSON: {exc}", field="context") from exc


psycopg.adapters.register_dumper(Json, _JsonDumper)
psycopg.adapters.register_dumper(Array, ArrayDumper)


def arguments(query: Query) -> tuple[LiteralString, Mapping[str, object] | None]:
    """Return the arguments of `execute`. Without parameters a text may hold several statements, as a migration does."""
    return query.statement.text, query.parameters or None


def columns_of(cursor: Any) -> tuple[str, ...]:
    """Return the column names of a result; none for a statement without a result.

    It does not use psycopg's `description`, which makes an object for each column. The objects would cost a tenth of
    the time that storing a version takes.
    """
    found = cursor.pgresult
    return tuple(found.fname(number).decode() for number in range(found.nfields))
