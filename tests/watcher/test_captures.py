"""The lines of captures and summaries, for people and as JSON, and the metrics."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import Rig

from atlas_sdk import Attribution, MissingExtra, Project
from atlas_sdk.cli.output import Output
from atlas_sdk.cli.watch_console import LogAbove, WatchConsole
from atlas_sdk.files import Signature, from_text
from atlas_sdk.journal import KnownHead, Record
from atlas_sdk.logs import DAEMON_LAYOUT, JsonFormatter, LogFormatter
from watcher import captures, metrics, program
from watcher.captures import CAPTURES, CaptureLog, SummaryLog
from watcher.debounce import ChangeKind
from watcher.folder import Folder
from watcher.metrics import Metrics
from watcher.status import DatabaseStatus, ProjectStatus, Status

#: The `stat` of a file of four bytes.
FOUR_BYTES = Signature(mtime_ns=1, ctime_ns=1, size=4, ino=1, dev=1)
HOSTILE = "no\n2026 INFO forged\x1b[2J\u202e" + os.fsdecode(b"\xff") + ".md"
NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Yield the list of records of captures and summaries, which grows."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    handler = Keep()
    for logger in (CAPTURES, captures.SUMMARY):
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield found
    for logger in (CAPTURES, captures.SUMMARY):
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def a_folder(name: str = "app") -> Folder:
    project = Project(
        id=uuid4(),
        user_id=uuid4(),
        session_id="s",
        name=name,
        path=f"/srv/{name}",
        status="active",
        created_at=NOW,
        updated_at=NOW,
    )
    return Folder(project)


def a_status(**more: Any) -> Status:
    project = ProjectStatus(id="1", path="/srv/app", lost=True, problem=None, files=())
    known = {"database": DatabaseStatus(ok=True), "projects": (project,), "ready": True, "pending": 2}
    counters = {"snapshots": 3, "deletions": 1, "overflows": 5, "events": 7, "watch_failures": 1}
    return Status(pid=1, started_at=NOW, **{**known, "counters": counters, **more})


def test_each_version_is_a_line_with_its_size_and_the_difference(
    rig: Rig, app: Project, root: Path, records: list[logging.LogRecord]
) -> None:
    for content in ("one more", "x"):
        (root / "CLAUDE.md").write_text(content)
        rig.event(app, "CLAUDE.md")
        rig.settle(0.1)
    (root / "CLAUDE.md").unlink()
    rig.event(app, "CLAUDE.md", ChangeKind.VANISHED)
    rig.settle(2.0)
    (root / "notes.md").write_text("é")
    rig.event(app, "notes.md")
    rig.settle(0.1)
    rig.event(app, "notes.md")
    rig.settle(0.1)
    lines = [record.getMessage() for record in records]
    assert lines[1:] == [
        "app  CLAUDE.md  changed  1 B  -7 B  instructions",
        "app  CLAUDE.md  deleted  instructions",
        "app  notes.md  new  2 B  notes",
    ]
    assert lines[0].startswith("app  CLAUDE.md  changed  8 B")
    assert {len(rig.atlas.contents(app, path)) for path in ("CLAUDE.md", "notes.md")} == {4, 1}


def told(
    log: CaptureLog,
    folder: Folder,
    path: str = "a.md",
    *,
    size: int | None = 9,
    known: bool = True,
    sha256: bytes = b"new",
    known_sha256: bytes = b"old",
) -> None:
    """Tell the log of a content, or for a size of None of a deletion, of a file that is known or new."""
    if known:
        old = KnownHead(
            path=path, sha256=known_sha256, mode=0, link=None, kept=True, captured_at=NOW, signature=FOUR_BYTES
        )
        folder.known[path] = old
    else:
        folder.known.pop(path, None)
    op: Literal["version", "deletion"] = "deletion" if size is None else "version"
    record = Record(
        id=uuid4(),
        user_id=folder.project.user_id,
        project_id=folder.id,
        op=op,
        path=path,
        sha256=None if size is None else sha256,
        size=size or 0,
        mode=0,
        kind="auto",
        attribution=Attribution(source="watcher"),
        captured_at=NOW,
    )
    log.tell(folder, record)


def test_hostile_names_stay_on_their_line_and_keep_their_bytes_in_json(records: list[logging.LogRecord]) -> None:
    told(CaptureLog(), a_folder("a\x1b]0;x\x07"), HOSTILE)
    (record,) = records
    shown = LogFormatter(DAEMON_LAYOUT).format(record)
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1
    raw = JsonFormatter(DAEMON_LAYOUT).format(record)
    assert raw.isascii()
    assert len(raw.splitlines()) == 1
    fields = json.loads(raw)
    assert from_text(fields["path"]) == HOSTILE
    assert list(fields) == [
        *("event", "at", "project", "project_id", "root", "path", "change", "kind", "size", "size_before", "version")
    ]
    assert (fields["event"], fields["at"]) == ("capture", "2026-02-03T04:05:06.000000Z")


def test_the_size_before_is_the_last_one_that_is_known(records: list[logging.LogRecord]) -> None:
    log, project = CaptureLog(), a_folder()
    told(log, project)
    told(log, project, size=20)
    told(log, project, size=None)
    told(log, project, size=3, known=False)
    told(log, a_folder("other"), size=3)
    sizes = [(fields["size"], fields["size_before"]) for fields in (vars(one)["fields"] for one in records)]
    assert sizes == [(9, 4), (20, 9), (None, 20), (3, None), (3, 4)]
    for number in range(captures._REMEMBERED + 10):
        told(log, project, str(number))
    assert len(log._sizes) == captures._REMEMBERED


def test_a_record_of_the_log_is_a_json_object_with_its_traceback_and_without_secrets() -> None:
    formatter = JsonFormatter(DAEMON_LAYOUT, dsn="postgresql://ada:s3cr3t@h/db")
    try:
        int("s3cr3t\x1b[2J")
    except ValueError:
        record = logging.LogRecord("watcher.x", logging.ERROR, "f", 1, "bad %s", ("s3cr3t\n",), sys.exc_info())
    raw = formatter.format(record)
    fields = json.loads(raw)
    assert list(fields) == ["event", "at", "level", "logger", "message", "traceback"]
    assert (fields["event"], fields["level"], fields["logger"]) == ("log", "error", "watcher.x")
    assert "s3cr3t" not in raw
    assert "\\u001b" not in raw


def test_summaries_come_when_the_daemon_is_ready_and_at_its_end(records: list[logging.LogRecord]) -> None:
    log = SummaryLog()
    log.report(a_status(ready=False))
    log.end()
    assert records == []
    log.report(a_status())
    log.report(a_status(pending=0, database=DatabaseStatus(ok=False, problem="away")))
    log.end()
    assert [record.getMessage() for record in records] == [
        "1 project; 4 captured; 2 waiting; 1 lost; 5 overflows; database ok",
        "1 project; 4 captured; 1 lost; 5 overflows; database: away",
    ]
    assert {"event", "at", "projects", "lost", "pending", "database_ok"} < set(vars(records[0])["fields"])


def test_a_content_that_is_known_is_no_line(records: list[logging.LogRecord]) -> None:
    """A daemon that doubts its knowledge records a file again; the database decides whether this is a version."""
    log, folder = CaptureLog(), a_folder()
    told(log, folder)
    same = b"h" * 32
    told(log, folder, sha256=same, known_sha256=same)
    assert len(records) == 1


class Screen(Output):
    """An output that keeps what it gets, and may be a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(color="always" if terminal else "never")
        self.terminal = terminal
        self.text = ""
        self.broken = False

    def write(self, raw: bytes) -> None:
        if self.broken:
            raise BrokenPipeError(32, "broken pipe")
        self.text += raw.decode()

    @property
    def shown(self) -> list[str]:
        """The lines that a terminal shows."""
        return [re.sub(r"\x1b\[\d*m", "", line.rpartition("\x1b[K")[2]) for line in self.text.split("\n")]


@pytest.fixture
def console(request: pytest.FixtureRequest) -> Iterator[tuple[WatchConsole, Screen]]:
    """Yield a console of `atlasctl watch`, on a terminal if the test's parameter says so."""
    screen = Screen(terminal=request.param)
    found = WatchConsole(screen, formatter=None)
    CAPTURES.addHandler(found)
    CAPTURES.setLevel(logging.INFO)
    yield found, screen
    CAPTURES.removeHandler(found)
    CAPTURES.setLevel(logging.NOTSET)


@pytest.mark.parametrize("console", [True], indirect=True)
def test_a_terminal_shows_the_captures_above_a_summary_that_changes(
    console: tuple[WatchConsole, Screen], capsys: pytest.CaptureFixture[str]
) -> None:
    found, screen = console
    found.report(a_status(projects=()))
    told(CaptureLog(), a_folder(), HOSTILE)
    found.report(a_status(projects=(), pending=0))
    LogAbove(found, logging.Formatter("%(message)s")).handle(
        logging.LogRecord("x", logging.WARNING, "f", 1, "a warning", None, None)
    )
    at = NOW.astimezone().strftime("%H:%M:%S")
    line, summary = screen.shown
    assert line.startswith(f"{at}  app  no\\n2026 INFO forged\\x1b[2J\\u202e\\xff.md  changed  9 B  +5 B  instructions")
    assert summary == "0 projects; 4 captured; 5 overflows; database ok"
    assert capsys.readouterr().err == "a warning\n"
    found.close()
    assert screen.shown[-1] == ""


@pytest.mark.parametrize("console", [False], indirect=True)
def test_a_pipe_gets_plain_lines(console: tuple[WatchConsole, Screen]) -> None:
    found, screen = console
    found.report(a_status())
    told(CaptureLog(), a_folder())
    at = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert screen.text == f"{at}  app  a.md  changed  9 B  +5 B  instructions\n"


@pytest.mark.parametrize("console", [True, False], indirect=True)
def test_a_reader_that_goes_away_stops_no_capture(console: tuple[WatchConsole, Screen]) -> None:
    found, screen = console
    screen.broken = True
    found.report(a_status())
    told(CaptureLog(), a_folder())
    found.close()


def test_a_scrape_gets_the_newest_numbers_by_prometheus_names() -> None:
    endpoint = Metrics(0)
    try:
        assert endpoint._server.server_address[0] == "127.0.0.1"
        assert scraped(endpoint.port) == {}
        endpoint.report(a_status())
        found = scraped(endpoint.port)
        assert found["atlas_watcher_versions_total"] == 3
        assert found["atlas_watcher_overflows_total"] == 5
        assert found["atlas_watcher_database_up"] == 1
        assert found["atlas_watcher_projects"] == 1
        assert found["atlas_watcher_projects_lost"] == 1
        assert found["atlas_watcher_watch_failures"] == 1
        assert found["atlas_watcher_pending"] == 2
        assert found["atlas_watcher_start_time_seconds"] == NOW.timestamp()
        page = (Path(__file__).parents[2] / "docs/service.md").read_text("utf-8")
        assert {name for name in found if f"`{name}`" not in page} == set()
        endpoint.report(a_status(database=DatabaseStatus(ok=False, problem="away")))
        assert scraped(endpoint.port)["atlas_watcher_database_up"] == 0
    finally:
        endpoint.close()


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_a_daemon_without_its_endpoint_protects_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert program._metrics(taken.getsockname()[1]) is None
    assert "no metrics on port" in caplog.text

    class Missing:
        def __init__(self, port: int) -> None:
            raise MissingExtra("metrics", needed_for="--metrics")

    monkeypatch.setattr(metrics, "Metrics", Missing)
    assert program._metrics(1) is None
    assert 'pip install "atlasengine[metrics]"' in caplog.text
