"""Homes with data of an older major version of PostgreSQL, as an older release made them."""

import hashlib
from pathlib import Path

import psycopg
from made_once import copy_content, made_once
from patience import PATIENCE_S

from atlas_sdk._embedded import places
from atlas_sdk._embedded.account import find_account
from atlas_sdk._embedded.cluster import Cluster
from atlas_sdk._embedded.places import Site
from atlas_sdk._embedded.server import _dsn

OLD = min(places.carried(), key=int)
ROWS = """
CREATE TABLE kept AS SELECT n, repeat(n::text, 50) AS words FROM generate_series(1, 5000) AS n;
CREATE ROLE reader NOLOGIN;
GRANT SELECT ON kept TO reader;
"""
SUM = "SELECT count(*) || ' ' || md5(string_agg(n || words, ',' ORDER BY n)) FROM kept"


def old_data(script: str) -> tuple[Path, str]:
    """Make data as an older release did, once for each script. Return its folder and the result of `SUM`."""
    made = made_once(f"old-{hashlib.sha256(script.encode()).hexdigest()[:8]}", lambda folder: _make(folder, script))
    return made / "data", (made / "sum").read_text("utf-8")


def _make(folder: Path, script: str) -> None:
    account = find_account()
    home = folder / "home"
    home.mkdir(mode=0o755)
    site = Site.prepare(home)
    programs = places.binaries_of(OLD, account)
    data = site.place_data()
    arguments = ("-D", data, "-U", "atlas", "--auth=reject", "--encoding=UTF8", "--locale=C", "--no-sync")
    data.mkdir(mode=0o700)
    account.give(data)
    made = account.run(programs / "initdb", *arguments, timeout_s=PATIENCE_S)
    assert made.returncode == 0, made.stdout
    single = (programs / "postgres", "--single", "-D", data, "postgres")
    made = account.run(*single, stdin="CREATE DATABASE atlasengine OWNER atlas\n", timeout_s=PATIENCE_S)
    assert "ERROR" not in made.stdout
    with (data / "postgresql.conf").open("a") as file:
        file.write("\ninclude_if_exists = 'atlas.conf'\n")
    found = ""
    if script:
        cluster = Cluster(site=site, data_dir=data, bin_dir=programs, major=OLD)
        with psycopg.connect(_dsn(cluster.serve(), account.name), autocommit=True) as connection:
            assert connection.info.server_version // 10_000 == int(OLD)
            connection.execute(script)
            (found,) = connection.execute(SUM).fetchone()
        cluster.stop()
    (folder / "sum").write_text(found, "utf-8")
    data.rename(folder / "data")


def old_cluster(home: Path, script: str = "") -> Cluster:
    """Make a home as an older release did, with its server stopped."""
    site = Site.prepare(home)
    data = site.place_data()
    data.mkdir(mode=0o700, exist_ok=True)
    copy_content(old_data(script)[0], data)
    return Cluster(site=site, data_dir=data, bin_dir=places.binaries_of(OLD, find_account()), major=OLD)
