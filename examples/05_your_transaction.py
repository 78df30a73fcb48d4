"""Your rows and ours in your transaction, on your own connection: both are kept, or neither.

Run it: python examples/05_your_transaction.py
"""

from typing import Any

import psycopg

from atlas_sdk import AlreadyExists, Atlas, User

# Your table. This one is temporary, so it is dropped with the connection.
SCHEMA = """
CREATE TEMP TABLE workspaces (
    path text PRIMARY KEY,
    state text NOT NULL,
    price numeric NOT NULL CHECK (price > 0)
)
"""

Connection = psycopg.Connection[Any]


def sell(atlas: Atlas, connection: Connection, user: User, path: str, *, price: int) -> None:
    """Sell a workspace. Write your row, and our rows: a project with its first rules, and an event."""
    with connection.transaction():
        tx = atlas.join(connection)
        project = tx.projects.create(user, path=path)
        tx.memory.snapshot(project, "CLAUDE.md", b"# Rules\n\n- Ask before you delete.\n")
        tx.events.log("workspace.sold", user=user, project=project, meta={"price": price})
        connection.execute("INSERT INTO workspaces VALUES (%s, 'sold', %s)", [path, price])


def sell_or_note(atlas: Atlas, connection: Connection, user: User, path: str, *, price: int) -> None:
    """Handle a refusal of ours. It leaves your transaction as it was before, and you decide how it goes on."""
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
    # The database is removed at the end. In your own program, use Atlas.open("postgresql://…").
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
