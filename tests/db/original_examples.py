"""A runner for the examples of docs/operations.md, for both clients."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import psycopg
import reference
from guard_adapter import QuotaClient

from atlas_sdk import Atlas, Project, User

ROWS = {row.name: row for row in reference.original_names()}
READY_HASH = "$2b$12$LQv3c1yqBWVHxkd0LHAkCOYz6TtxMQJqhN8/LewdBPj/VcSAg/9qm"


class Awaited(ast.NodeTransformer):
    """A transformer of blocking code for the asyncio client. It adds `await` and `async with`, as a person would."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        names = ast.unparse(node.func).split(".")
        is_operation = names[0] in {"atlas", "tx"} and (len(names) == 3 or names == ["atlas", "health"])
        return ast.Await(value=node) if is_operation else node

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.items[0].context_expr).startswith("atlas."):
            return ast.copy_location(ast.AsyncWith(items=node.items, body=node.body), node)
        return node


class World:
    """A client of either kind that runs examples, and a blocking client that looks at their effects."""

    def __init__(self, client: QuotaClient, dsn: str, see: Atlas) -> None:
        self.client, self.dsn, self.see = client, dsn, see
        #: The variables of the examples.
        self.names: dict[str, Any] = {"atlas": client.atlas, "psycopg": psycopg, "ready_hash": READY_HASH}

    def user(self) -> User:
        user: User = self.see.users.create("ada@example.com")
        self.names["user"] = user
        return user

    def project(self) -> Project:
        project = self.see.projects.create(self.user(), path="/srv/app")
        self.names["project"] = project
        return project

    def knows(self, **names: Any) -> None:
        self.names |= names

    def run(self, name: str) -> Any:
        """Run the example of a row; return what it assigned."""
        code = ast.parse(ROWS[name].example).body
        if self.client.kind == "asyncio":
            code = [Awaited().visit(statement) for statement in code]
        kind = "async def" if self.client.kind == "asyncio" else "def"
        body = textwrap.indent("\n".join(map(ast.unparse, code)), "    ")
        names = ", ".join(self.names)
        source = f"{kind} example({names}):\n{body}\n    return locals()"
        made: dict[str, Any] = {}
        # The code is the text of the document.
        exec(source, made)
        before = dict(self.names)
        after = self.client.do(made["example"](**before))
        new = [value for key, value in after.items() if before.get(key) is not value]
        return new[-1] if new else None
