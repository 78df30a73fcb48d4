"""Your rows and ours in one transaction of yours, on your own connection: both are kept, or neither.

Run it: python examples/05_your_transaction.py
"""

from typing import Any

import psycopg

from atlas_sdk import AlreadyExists, Atlas, User

# What is yours. A real one is a table of your database; this one goes away with the connection.
SCHEMA = """
CREATE TEMP TABLE workspaces (
    path text PRIMARY KEY,
    state text NOT NULL,
    price numeric NOT NULL CHECK (price > 0)
)
"""

Connection = psycopg.Connection[Any]


def sell(atlas: Atlas, connection: Connection, user: User, path: str, *, price: int) -> None:
    """Sell a workspace: your row, and ours: a project with its first rules, and a line of the audit trail."""
    with connection.transaction():
        tx = atlas.join(connection)
        project = tx.projects.create(user, path=path)
        tx.memory.snapshot(project, "CLAUDE.md", b"# Rules\n\n- Ask before you delete.\n")
        tx.events.log("workspace.sold", user=user, project=project, meta={"price": price})
        connection.execute("INSERT INTO workspaces VALUES (%s, 'sold', %s)", [path, price])


def sell_or_note(atlas: Atlas, connection: Connection, user: User, path: str, *, price: int) -> None:
    """A refusal of ours leaves your transaction as it was before it: you decide what becomes of it."""
    with connection.transaction():
        try:
            atlas.join(connection).projects.create(user, path=path)
        except AlreadyExists as refused:
            print(f"refused: {refused}")
            connection.execute("INSERT INTO workspaces VALUES (%s, 'to be looked at', %s)", [f"{path}#2", price])


def show(atlas: Atlas, connection: Connection, user: User) -> None:
    rows = connection.execute("SELECT path, state FROM workspaces ORDER BY path").fetchall()
    projects = [project.path for project in atlas.projects.list(user)]
    versions = sum(len(atlas.memory.history(project)) for project in atlas.projects.list(user))
    sold = len(atlas.events.search(user, event_type="workspace.sold"))
    print(f"  yours: {', '.join(f'{path} {state}' for path, state in rows)}")
    print(f"  ours:  {', '.join(projects)}; versions: {versions}, events of a sale: {sold}")


def main() -> None:
    # A database that is gone at the end; in a program of yours: Atlas.open("postgresql://…").
    with Atlas.temporary() as atlas, psycopg.connect(atlas.url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        user = atlas.users.create("ada@example.com")

        sell(atlas, connection, user, "/srv/first", price=10)
        print("committed:")
        show(atlas, connection, user)

        try:
            sell(atlas, connection, user, "/srv/second", price=0)
        except psycopg.errors.CheckViolation:
            print("your constraint refused the price, so there is no project either:")
        show(atlas, connection, user)

        sell_or_note(atlas, connection, user, "/srv/first", price=10)
        print("and your row was kept:")
        show(atlas, connection, user)


if __name__ == "__main__":
    main()
