"""Each log record is one line, even with odd names and errors in it."""

import io
import logging
import sys

import pytest

from atlas_sdk.logs import DAEMON_LAYOUT, LogFormatter

_FORGED = "/srv/a\n2026-11-30 12:00:00,000 INFO watcher.worker: all is well\x1b[2J\u202e"


@pytest.fixture
def log():
    """Yield a logger of this test. Its attribute `written` returns the text that it wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s", dsn="host=h options='-c app.key=s3cr3t'"))
    logger = logging.getLogger("atlas_sdk.test_logs")
    logger.propagate = False
    logger.addHandler(handler)
    logger.written = stream.getvalue
    yield logger
    logger.removeHandler(handler)


def test_a_name_forges_no_line(log):
    log.warning("%s: cannot look at %s", _FORGED, "b\r\nc")
    (line,) = log.written().splitlines()
    assert line == (
        "WARNING /srv/a\\n2026-11-30 12:00:00,000 INFO watcher.worker: all is well\\x1b[2J\\u202e: "
        "cannot look at b\\r\\nc"
    )


def test_a_traceback_forges_no_line(log):
    def fail():
        raise OSError(2, "No such file", _FORGED) from ValueError(f"x\nINFO {_FORGED}")

    try:
        fail()
    except OSError:
        # A text of the traceback that another handler made stays in the record.
        record = log.makeRecord("test", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
        record.exc_text = "INFO forged"
        log.handle(record)
    first, *rest = log.written().splitlines()
    assert first == "ERROR failed"
    assert len(rest) > 5
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in log.written()


def test_a_secret_of_the_address_is_in_no_line(log):
    log.warning("connection failed: FATAL: no s3cr3t %s", "s3cr3t")
    assert "s3cr3t" not in log.written()


def test_lines_of_the_watcher_begin_with_their_time():
    record = logging.LogRecord("watcher", logging.INFO, "f", 1, "ready", None, None)
    assert LogFormatter(DAEMON_LAYOUT).format(record).endswith(" INFO watcher: ready")
    assert record.asctime[:2] == "20"
