"""Nothing that was acknowledged is lost: torn tails, kill -9, forks, a removed file."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from journaling import record

from atlas_sdk.journal import Journal, JournalProblem

ROOT = os.geteuid() == 0


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def journal(home):
    with Journal.open(home) as opened:
        yield opened


def contents(journal):
    return [one.content for one in journal.pending(limit=100_000, max_bytes=2**30)]


def log_of(journal):
    return journal.path.with_name("journal.db-wal")


def copy_of(journal, to: Path, *, log: bytes) -> Path:
    """Copy a journal as a crash leaves it, with these bytes as its log."""
    folder = to / "journal"
    folder.mkdir(parents=True, mode=0o700)
    shutil.copy(journal.path, folder)
    (folder / log_of(journal).name).write_bytes(log)
    return to


def test_an_append_waits_for_the_disk_and_a_mark_does_not(journal):
    journal.append([record()])
    full, normal = 2, 1
    levels = [one.opened().execute("PRAGMA synchronous").fetchone()[0] for one in (journal._appends, journal._reads)]
    assert levels == [full, normal]


def test_a_torn_tail_loses_only_what_was_not_acknowledged(journal, tmp_path):
    ends = [log_of(journal).stat().st_size]
    for number in range(5):
        journal.append([record(b"%d" % number * 3_000), record(b"%d" % number)])
        ends.append(log_of(journal).stat().st_size)
    log = log_of(journal).read_bytes()
    assert ends == sorted(set(ends)), "each append is a new part of the log"
    for number, end in enumerate(ends):
        for cut in {end, end + 7, end + (ends[1] - ends[0]) // 2} - {ends[-1] + 7}:
            home = copy_of(journal, tmp_path / f"cut-{cut}", log=log[:cut])
            with Journal.open(home) as torn:
                assert len(contents(torn)) == 2 * min(number, 5)
                torn.append([record(b"goes on")])
                assert contents(torn)[-1] == b"goes on"


def test_a_garbled_tail_is_cut_off(journal, tmp_path):
    journal.append([record(b"1")])
    end = log_of(journal).stat().st_size
    journal.append([record(b"2")])
    log = bytearray(log_of(journal).read_bytes())
    log[end + 100] ^= 0xFF
    with Journal.open(copy_of(journal, tmp_path / "garbled", log=bytes(log))) as torn:
        assert contents(torn) == [b"1"]


def test_damage_in_the_file_is_said_and_changes_nothing(journal, home):
    journal.append([record(os.urandom(5_000), path=f"{number}.md") for number in range(50)])
    path = journal.path
    journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = os.urandom(len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(JournalProblem, match=r"journal\.db is damaged; move its folder away, then try again"):
        journal.append([record()])
    assert "is damaged" in (journal.status().problem or "")
    journal.close()
    assert path.read_bytes() == damaged


# Other files in its place


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE", "not a journal of AtlasEngine"),
        ("application", "not a journal of AtlasEngine"),
        ("version", "has format 2, and this AtlasEngine knows format 1"),
    ],
)
def test_another_format_is_refused_and_not_touched(home, change, sentence):
    Journal.open(home).close()
    path = home / "journal" / "journal.db"
    if change == "UPDATE":
        path.write_bytes(b"not SQLite" * 1_000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA application_id = 5" if change == "application" else "PRAGMA user_version = 2")
        connection.close()
    before = path.read_bytes()
    for opening in (Journal.open, Journal.existing):
        with pytest.raises(JournalProblem, match=sentence):
            opening(home)
    assert path.read_bytes() == before
    assert [one.name for one in sorted(path.parent.iterdir())] == ["journal.db", "lock"]


def loosen_file(home):
    (home / "journal" / "journal.db").chmod(0o644)


def loosen_folder(home):
    (home / "journal").chmod(0o755)


def link_file(home):
    (home / "journal" / "journal.db").rename(home / "elsewhere")
    (home / "journal" / "journal.db").symlink_to(home / "elsewhere")


def link_folder(home):
    (home / "journal").rename(home / "elsewhere")
    (home / "journal").symlink_to(home / "elsewhere")


def give_away(home):
    os.chown(home / "journal" / "journal.db", 65534, 65534)


@pytest.mark.parametrize(
    "change",
    [
        loosen_file,
        loosen_folder,
        link_file,
        link_folder,
        pytest.param(give_away, marks=pytest.mark.skipif(not ROOT, reason="only root may give a file away")),
    ],
)
def test_a_file_that_others_may_change_is_refused(home, change):
    Journal.open(home).close()
    change(home)
    for opening in (Journal.open, Journal.existing):
        with pytest.raises(JournalProblem, match="not a private|is a link"):
            opening(home)


def test_folder_and_files_are_private_whatever_the_umask(home):
    before = os.umask(0)
    try:
        with Journal.open(home) as journal:
            journal.append([record()])
            modes = {
                path.name: path.stat().st_mode & 0o777 for path in [journal.path.parent, *journal.path.parent.iterdir()]
            }
    finally:
        os.umask(before)
    assert modes.pop("journal") == 0o700
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm", "lock"), 0o600)


def test_a_removed_journal_is_made_again_and_gets_what_comes(journal, home):
    journal.append([record(b"1")])
    shutil.rmtree(home)
    assert journal.is_empty()
    journal.append([record(b"2")])
    assert contents(journal) == [b"2"]
    with Journal.existing(home) as again:
        assert contents(again) == [b"2"]


def test_the_log_of_a_file_that_was_moved_alone_is_not_taken_for_the_new_ones(journal, home):
    """SQLite would read it, because a log does not say to which file it belongs."""
    journal.append([record(b"1", path="old.md")])
    log = log_of(journal).read_bytes()
    journal.path.rename(home / "moved.db")
    with Journal.open(home) as again:
        assert again.is_empty()
        again.append([record(b"2")])
        assert contents(again) == [b"2"]
    assert [path.read_bytes() for path in (home / "journal").glob("*.left-*-wal")] == [log]


def test_an_append_during_the_removal_is_repeated_in_the_new_file(journal, home, monkeypatch):
    real, calls = journal._appends.transaction, []

    def removing():
        calls.append(1)
        if len(calls) == 2:
            shutil.rmtree(home)
        return real()

    journal.append([record(b"1")])
    monkeypatch.setattr(type(journal._appends), "is_open", property(lambda _: len(calls) > 1))
    monkeypatch.setattr(journal._appends, "transaction", removing)
    journal.append([record(b"2")])
    assert (contents(journal), len(calls)) == ([b"2"], 2)


# Processes

APPENDING = """
import sys
from pathlib import Path
from journaling import record
from atlas_sdk.journal import Journal
with Journal.open(Path(sys.argv[1])) as journal:
    while True:
        made = record(b"x" * 3_000)
        journal.append([made])
        print(made.id, flush=True)
"""


def test_records_that_a_killed_process_acknowledged_are_there(home):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    acknowledged = {UUID(line.strip()) for line in lines if line.endswith("\n")}
    with Journal.existing(home) as journal:
        found = {one.id for one in journal.pending(limit=10**6, max_bytes=2**30)}
        assert acknowledged <= found
        # The process may have been killed between the append and the line.
        assert len(found - acknowledged) <= 1
        journal.append([record(b"after")])


def forked(*calls):
    """Run each call in a forked child at the same time; fail if one fails."""
    children = []
    for call in calls:
        child = os.fork()
        if not child:
            code = 1
            try:
                call()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(calls)


def test_forked_children_and_their_parent_append_at_once(journal):
    journal.append([record(b"before", path="parent.md")])

    def appending(name):
        def append():
            for number in range(25):
                journal.append([record(b"%d" % number, path=name)])
                assert not journal.is_empty()

        return append

    forked(*(appending(f"{child}.md") for child in range(3)), lambda: None)
    journal.append([record(b"after", path="parent.md")])
    for child in range(3):
        found = journal.pending(path=f"{child}.md")
        assert [one.content for one in found] == [b"%d" % number for number in range(25)]
    assert [one.content for one in journal.pending(path="parent.md")] == [b"before", b"after"]


def test_a_child_that_goes_on_after_its_parent_has_closed_loses_nothing(journal, home):
    """SQLite removes its log when the last connection closes. A child without a lock of its own would lose the log."""
    go, went = os.pipe(), os.pipe()
    journal.append([record(b"1")])
    child = os.fork()
    if not child:
        code = 1
        try:
            journal.append([record(b"2")])
            os.write(went[1], b"x")
            os.read(go[0], 1)
            journal.append([record(b"3")])
            code = 0
        finally:
            os._exit(code)
    os.read(went[0], 1)
    journal.append([record(b"parent")])
    journal.close()
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for descriptor in (*go, *went):
        os.close(descriptor)
    with Journal.existing(home) as again:
        assert contents(again) == [b"1", b"2", b"parent", b"3"]


def test_a_second_journal_object_that_closes_keeps_the_locks_of_the_first(journal, home):
    """Closing any descriptor of a file drops the process's POSIX locks on it, so the check must not open it again."""
    journal.append([record(b"1")])
    Journal.existing(home).close()
    # The last process that closes the file removes the log; it is the last one if the locks of this process are gone.
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM records'); c.close()"
    subprocess.run([sys.executable, "-c", code, journal.path], check=True)
    assert log_of(journal).exists()
