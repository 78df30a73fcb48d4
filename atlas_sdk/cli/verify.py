"""`atlasctl verify`: read back every version."""

import click

from atlas_sdk.cli.command import Command, user_option
from atlas_sdk.cli.failures import NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import fields_of, of_broken
from atlas_sdk.cli.output import count, size
from atlas_sdk.text import printable


@click.command(
    cls=Command, examples=("atlasctl verify", "atlasctl verify --json", "atlasctl verify --user ada@example.com")
)
@user_option
@pass_run
def verify(run: Invocation, email: str | None) -> int:
    """Read back every version and hash it again.

    This covers all your projects, in whatever folder you are. A version that a checkpoint names is checked and counted
    once more for each such checkpoint. Exits with 6 if a version does not have its SHA-256, and with 3 if you have no
    projects.
    """
    with run.opened() as atlas:
        user = run.owner(atlas, email)
        found = atlas.memory.verify(user)
        if not found.versions and not atlas.projects.list(user, status=None, limit=1):
            # Without any version, "all intact" would be true, but could hide that this is the wrong database.
            raise run.no_projects(user)
    ratio = round(found.stored_bytes / found.content_bytes, 4) if found.content_bytes else None
    if run.out.json:
        run.out.record(
            fields_of(
                found,
                "ok versions contents unkept content_bytes stored_bytes ratio broken",
                ratio=ratio,
                broken=[of_broken(one) for one in found.broken],
            )
        )
        return 0 if found.ok else NOT_PROTECTED
    intact = ", all intact" if found.ok else f", {count(len(found.broken), 'version')} broken"
    run.out.line(f"{count(found.versions, 'version')} checked{intact}")
    stored = (
        "" if ratio is None else f", {size(found.content_bytes)} stored in {size(found.stored_bytes)} ({ratio:.1%})"
    )
    run.out.line(f"{count(found.contents, 'content')}{stored}")
    if found.unkept:
        run.out.note(f"{count(found.unkept, 'version')} over the size limit: only the hash was kept")
    for one in found.broken:
        run.out.line(f"broken  {one.snapshot_id.hex[:12]}  {printable(one.path)}  {one.problem}")
    if found.ok:
        return 0
    run.out.note("restore the database from a backup")
    return NOT_PROTECTED
