"""Logs of builds, to which many writers append and which are cut at the front."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from atlas_sdk import Atlas, Project

MIB = 1024 * 1024


@pytest.fixture
def project(client: Any) -> Project:
    return client.projects.create(client.users.create("ada@example.com"), path="/srv/app")


# Logs.


def test_a_log_is_read_while_it_is_written_and_after(client: Any, project: Project, dsn: str) -> None:
    build = client.builds.create(project)
    assert client.builds.log(build) == ""
    client.builds.append_log(build, "one\n")
    client.builds.start(build)
    client.builds.append_log(build, "two\n")
    client.builds.append_log(build, "")
    assert client.builds.log(build) == "one\ntwo\n"
    done = client.builds.succeed(build)
    assert done.log_bytes == 8
    with psycopg.connect(dsn) as raw:
        assert raw.execute("SELECT logs FROM builds").fetchone() == ("one\ntwo\n",)
        assert raw.execute("SELECT count(*) FROM build_logs").fetchone() == (0,)
    client.builds.append_log(build, "late\n")
    assert client.builds.log(build) == "one\ntwo\nlate\n"


@pytest.mark.every_server
def test_lines_after_the_end_do_not_write_the_log_anew(client: Any, project: Project, dsn: str) -> None:
    build = client.builds.start(client.builds.create(project))
    client.builds.append_log(build, "early\n")
    client.builds.succeed(build)
    line = "é" * 511 + "\n\n"

    def stored() -> tuple[str, int]:
        with psycopg.connect(dsn) as raw:
            return raw.execute("SELECT logs, (SELECT count(*) FROM build_logs) FROM builds").fetchone()

    for number in range(1, 64):
        client.builds.append_log(build, line)
        assert stored() == ("early\n", number)
    assert client.builds.log(build) == "early\n" + line * 63
    # The pending text has reached 64 KiB.
    client.builds.append_log(build, line)
    assert stored() == ("early\n" + line * 64, 0)
    # A single piece may also be this long.
    client.builds.append_log(build, "x" * 65_535)
    assert stored()[1] == 1
    client.builds.append_log(build, "x")
    assert stored()[1] == 0
    assert client.builds.log(build) == "early\n" + line * 64 + "x" * 65_536


def test_no_line_is_lost_when_many_append_and_one_ends_the_build(atlas: Atlas) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    build = atlas.builds.start(atlas.builds.create(project))

    def write(writer: int) -> None:
        for line in range(40):
            if (writer, line) == (3, 20):
                atlas.builds.succeed(build)
            atlas.builds.append_log(build, f"{writer}:{line}\n")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    lines = atlas.builds.log(build).splitlines()
    for writer in range(8):
        assert [line for line in lines if line.startswith(f"{writer}:")] == [f"{writer}:{n}" for n in range(40)]
    assert len(lines) == 320


def test_of_a_long_log_the_end_is_kept_and_marked(client: Any, project: Project, dsn: str) -> None:
    build = client.builds.start(client.builds.create(project))
    block = "".join(f"{n:05} é€\n" for n in range(2000)) * 50
    size = len(block.encode())
    for _ in range(16 * MIB // size + 2):
        client.builds.append_log(build, block)
    client.builds.append_log(build, "the end\n")
    total = size * (16 * MIB // size + 2) + len("the end\n")
    running = client.builds.log(build)
    with psycopg.connect(dsn) as raw:
        kept = raw.execute("SELECT sum(octet_length(content)) FROM build_logs").fetchone()[0]
    assert kept <= 16 * MIB + size
    client.builds.fail(build, error="too long")
    for log in (running, client.builds.log(build)):
        mark, _, rest = log.partition("\n")
        assert mark == f"[... {total - len(rest.encode())} earlier bytes are not kept]"
        assert 16 * MIB - 200 < len(log.encode()) <= 16 * MIB
        assert rest.endswith("the end\n")
        # The rest of the log begins with a whole line.
        assert (block * 2).find(rest[:2000]) >= 0
        assert rest[5:9] == " é€\n"
    client.builds.append_log(build, "late\n")
    log = client.builds.log(build)
    assert log.startswith(
        f"[... {total + 5 - len(log.encode()) + log.index(chr(10)) + 1} earlier bytes are not kept]\n"
    )
    assert log.endswith("the end\nlate\n")


def test_one_piece_longer_than_a_log_is_cut_too(client: Any, project: Project) -> None:
    build = client.builds.create(project)
    client.builds.append_log(build, "x" * (17 * MIB) + "\nend")
    log = client.builds.log(build)
    assert log == f"[... {17 * MIB + 4 - 16 * MIB + 64} earlier bytes are not kept]\n" + "x" * (16 * MIB - 68) + "\nend"


def test_what_no_text_can_hold_is_escaped_in_a_log(client: Any, project: Project) -> None:
    build = client.builds.create(project)
    client.builds.append_log(build, "nul\0 half\udc80 color\x1b[0m\n")
    assert client.builds.log(build) == "nul\\x00 half\\udc80 color\x1b[0m\n"
