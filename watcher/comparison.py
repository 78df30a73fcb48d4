"""Compare what the daemon knows about the files of a project with the newest versions in the database."""

from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime
from uuid import UUID

from atlas_sdk import Atlas, AtlasError, Project, Snapshot
from atlas_sdk.files import entry
from atlas_sdk.journal import Journal, KnownHead
from watcher.folder import Folder

#: Projects of one question to the database.
PROJECTS_AT_ONCE = 500


def head_of(version: Snapshot) -> KnownHead:
    """Return the newest version as the journal keeps it. It has no signature, so a scan hashes the file."""
    return KnownHead(
        path=version.path,
        sha256=None if version.sha256 is None else bytes.fromhex(version.sha256),
        mode=version.mode,
        link=version.link,
        kept=version.kept is not False,
        captured_at=version.created_at,
        signature=None,
    )


def stale_paths(
    folder: Folder, versions: Iterable[Snapshot], *, pending: Container[str], began: datetime
) -> Iterator[str]:
    """Compare `folder.known` with the newest versions, as they were at the time `began`; yield the files that differ.

    A failed restore, or another client, may store a newest version that differs from the file on the disk, and no event
    reports this. The function also yields a file whose content is not stored because it was over the size limit, if the
    file is within the limit now. It leaves out files that have newer versions, and files with versions in the journal
    (`pending`).
    """
    stored = {version.path: version for version in versions}
    for path, known in folder.known.items():
        version = stored.pop(path, None)
        if path in pending or known.captured_at >= began:
            continue
        if (
            version is None
            or version.sha256 is None
            or known.sha256 is None
            or (bytes.fromhex(version.sha256), version.mode, version.link) != (known.sha256, known.mode, known.link)
            or (version.kept is False and version.size <= folder.tracking.limit_bytes)
        ):
            yield path
    for path, version in stored.items():
        # Skip a file that is not on the disk: a client may have stored its content without a file.
        if version.deleted or path in pending or not _is_tracked(folder, path):
            continue
        if _is_there(folder, path):
            yield path


def _is_tracked(folder: Folder, path: str) -> bool:
    return path in folder.imports or folder.tracking.wants(path)


def _is_there(folder: Folder, path: str) -> bool:
    try:
        return entry(folder.pinned, path) is not None
    except AtlasError:
        # A later scan reports the problem.
        return False


def newest_heads(projects: Sequence[Project], atlas: Atlas, journal: Journal) -> dict[UUID, list[KnownHead]]:
    """Return the newest versions of the files of projects, from the database and from the journal.

    What this machine captured, and has not delivered, is newer than what the database knows.
    """
    heads: dict[UUID, dict[str, KnownHead]] = {}
    for at in range(0, len(projects), PROJECTS_AT_ONCE):
        for version in atlas.memory.heads(projects[at : at + PROJECTS_AT_ONCE]):
            heads.setdefault(version.project_id, {})[version.path] = head_of(version)
    for project in projects:
        for head in journal.heads(project.id).get(project.id, []):
            heads.setdefault(project.id, {})[head.path] = head
    return {project: list(of_project.values()) for project, of_project in heads.items()}
