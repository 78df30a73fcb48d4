"""`atlasctl db dump` and `atlasctl db load`: write the database into one file, and read it back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of
from atlas_sdk.cli.output import count, plain, size
from atlas_sdk.cli.progress import ProgressLine
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk.backups import Loaded, Progress

_STEPS: Final = {
    "dump": "dumping {name}, table {at} of {total}, {size} written",
    "load": "loading {name}, table {at} of {total}, {size} read",
    "index": "making the indexes",
    "verify": "verifying {name}, user {at} of {total}",
}


@click.command(
    cls=Command,
    examples=(
        "atlasctl db dump monday.dump",
        "atlasctl db dump --force latest.dump --dsn postgresql://ada@db.example/atlas",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE when it is there already.")
@pass_run_anywhere
def dump(run: Invocation, *, file: Path, force: bool) -> None:
    """Dump the database into one file.

    All rows are from one moment, and other programs can use the database meanwhile. FILE appears when it is complete
    and on the disk; only its owner can read it. The dump does not name owners or rights, so any login may load it with
    `atlasctl db load`.
    """
    from atlas_sdk import backups

    with ProgressLine(run.out) as shown:
        made = backups.dump(
            file,
            run.settings.database_url,
            home=run.settings.folder,
            overwrite=force,
            on_progress=lambda progress: shown.show(_line(progress)),
        )
    if run.out.json:
        names = "file database bytes sha256 seconds schema_version server_version rows"
        run.out.record(
            fields_of(
                made, names, file=str(made.file), database=run.database, bytes=made.size, seconds=round(made.seconds, 3)
            )
        )
        return
    rows = sum(made.rows.values())
    run.out.line(f"{printable(str(file))}: {size(made.size)}, {rows:,} rows, in {made.seconds:.1f} s")
    run.out.line(f"database: {run.database}")
    run.out.line(f"schema version {made.schema_version}, PostgreSQL {made.server_version}, sha256 {made.sha256}")


@click.command(
    cls=Command,
    examples=(
        "atlasctl db load monday.dump --home ~/restored",
        "atlasctl db load monday.dump --dsn postgresql://ada@new.example/atlas",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@pass_run_anywhere
def load(run: Invocation, *, file: Path) -> int:
    """Load a dump into an empty database.

    Loads all of it or nothing, and never over existing data. An older dump is migrated, a newer one is refused. Then
    every version is read back, and the counters are compared with the ledger. Exits with 6 when something does not
    match; the loaded data stays.
    """
    from atlas_sdk import backups

    with ProgressLine(run.out) as shown:
        loaded = backups.load(
            file,
            run.settings.database_url,
            home=run.settings.folder,
            on_progress=lambda progress: shown.show(_line(progress)),
        )
    if run.out.json:
        run.out.record({"database": run.database, **_fields(loaded)})
        return 0 if loaded.ok else NOT_PROTECTED
    run.out.line(f"{printable(str(file))}: {sum(loaded.rows.values()):,} rows loaded in {loaded.seconds:.1f} s")
    run.out.line(f"database: {run.database}")
    if loaded.dumped_version < loaded.schema_version:
        run.out.line(f"migrated from schema version {loaded.dumped_version} to {loaded.schema_version}")
    if not loaded.granted:
        run.out.note("the role atlas_app is not there, which as_user needs: atlasctl db init makes it, or says how")
    if not loaded.sealed:
        run.out.note(
            "the file has no seal, so a change to it since the dump would not show; atlasctl db dump writes a seal"
        )
    if loaded.ok:
        verified = f"{count(loaded.users, 'user')}, {count(loaded.versions, 'version')} of files"
        run.out.line(f"verified: {verified} read back as they were stored, and the counters match the ledger")
        return 0
    for one in loaded.broken:
        run.out.warn(f"version {one.snapshot_id.hex[:12]} of {one.path}: {one.problem}")
    for books in loaded.unbalanced:
        run.out.warn(f"the counters of user {books.user_id} do not match the ledger: see atlasctl quota verify")
    run.out.note("the dump itself has this damage, and all of it was loaded as it is; try an older dump")
    return NOT_PROTECTED


def _fields(loaded: "Loaded") -> dict[str, Any]:
    return fields_of(
        loaded,
        "ok file seconds dumped_version schema_version rows users versions broken unbalanced granted sealed",
        file=str(loaded.file),
        seconds=round(loaded.seconds, 3),
        broken=[one.snapshot_id for one in loaded.broken],
        unbalanced=[books.user_id for books in loaded.unbalanced],
    )


def _line(progress: "Progress") -> str:
    return _STEPS[progress.step].format(
        name=plain(progress.name), at=progress.done + 1, total=progress.total, size=size(progress.size)
    )
