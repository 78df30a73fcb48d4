"""The units of `atlasctl service`: what systemd reads from them, and how it rates them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_sdk.cli.service_plan import ServicePlan
from atlas_sdk.cli.service_systemd import SystemdUnit, secret_line, word

UNIT = "atlas-watcher.service"


def _unquoted(line: str) -> list[str]:
    """Return the words of a line as systemd.syntax(7) reads them, and with the specifier %% replaced."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert not any("%" in one.replace("%%", "") for one in words), "a specifier"
    return [re.sub(r"\\(.)", r"\1", one, flags=re.DOTALL).replace("%%", "%") for one in words]


#: Texts full of the letters that mean something to systemd.
TEXTS = st.text(st.sampled_from("%%\"\\$ 'ah") | st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20)


@given(st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_every_text_comes_back_from_the_quotes(texts: list[str]) -> None:
    assert _unquoted(" ".join(word(text) for text in texts)) == texts
    assert _unquoted(" ".join(word(text, in_command=True) for text in texts)) == [
        text.replace("$", "$$") for text in texts
    ]


def test_an_environment_file_escapes_what_systemd_reads_in_quotes() -> None:
    assert secret_line("X", 'a"b\\c`d$e f%') == 'X="a\\"b\\\\c\\`d\\$e f%"\n'


def test_a_unit_holds_odd_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/ada/a[b]*/c?%")
    plan = ServicePlan(
        name="atlas-watcher",
        program=("/usr/bin/python3",),
        home=Path("/home/ada/ends with \\"),
        variables={},
        dsn="postgresql:///atlas",
        account=None,
    )
    lines = SystemdUnit(plan).text().splitlines()
    # A backslash at the end of a line joins the next one to it.
    assert not [line for line in lines if line.endswith("\\")]
    # systemd takes a glob.
    (secrets,) = [line.partition("=")[2] for line in lines if line.startswith("EnvironmentFile=")]
    assert secrets == "/home/ada/a[[]b][*]/c[?]%%/atlasengine/atlas-watcher.env"


def _plans() -> Iterator[ServicePlan]:
    """Yield the plan of a user, of an account and of root, with and without a server."""
    dsn = "postgresql://ada@db.example/atlas"
    for account, server in ((None, None), (None, dsn), ("ada", dsn), ("root", None)):
        yield ServicePlan(
            name="atlas-watcher",
            program=("/usr/bin/env", "-P", "-m", "watcher"),
            home=Path('/home/ada/a "b" 100% $x'),
            variables={},
            dsn=server,
            account=account,
        )


needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="SYSTEMD-ANALYZE IS NOT INSTALLED: the rating is not checked"
)


@needs_analyze
def test_systemd_accepts_each_unit_and_rates_it_ok_or_better(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    for plan in _plans():
        path = tmp_path / UNIT
        path.write_text(SystemdUnit(plan).text())
        scope = ["--user"] if plan.account is None else []
        rate = ["systemd-analyze", *scope, "security", "--offline=true", "--threshold=50", "--no-pager", str(path)]
        rated = subprocess.run(rate, capture_output=True, text=True, env=environment)
        assert rated.returncode == 0, rated.stdout.splitlines()[-1]
        verify = ["systemd-analyze", *scope, "verify", "--man=no", str(path)]
        verified = subprocess.run(verify, capture_output=True, text=True, env=environment)
        assert (verified.returncode, verified.stderr) == (0, "")
