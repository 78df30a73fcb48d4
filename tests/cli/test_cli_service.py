"""`atlasctl service`, with programs on PATH that stand for systemd and launchd and record their calls."""

from __future__ import annotations

import os
import plistlib
import stat
from pathlib import Path

import pytest
from fake_manager import Manager

from atlas_sdk.cli import service_manager, service_plan
from atlas_sdk.cli.service_systemd import word

UNIT = "atlas-watcher.service"
PASSWORD = "postgresql://ada:s3cr3t@db.example/atlas"
_ACTIVE = (
    "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=77\nNRestarts=2\n"
    "Result=success\nStatusText=3 projects; 1 waiting\n"
)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    """Return a Linux with systemd, for a user who is not root; the home is below `tmp_path`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    found = Manager(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "ada/data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(service_manager, "BOOTED", tmp_path)
    monkeypatch.setattr(service_manager.platform, "system", lambda: "Linux")
    monkeypatch.setattr(service_plan, "is_root", lambda: False)
    found.says("systemctl", out=_ACTIVE)
    found.says("loginctl", out="no\n")
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    return tmp_path / "config/systemd/user" / UNIT


def test_install_writes_a_unit_and_starts_it(manager: Manager, unit: Path, cli) -> None:
    ran = cli("service", "install")
    assert (ran.code, ran.out) == (0, f"wrote {unit}\n{UNIT} is installed and active\n")
    assert "loginctl enable-linger" in ran.err
    text = unit.read_text()
    for line in ("Type=notify", "NotifyAccess=main", "WatchdogSec=30", "Restart=always", "KillMode=process"):
        assert f"\n{line}\n" in text
    probe, *rest = manager.calls
    assert probe.startswith("systemd-run --user --quiet --wait --collect -p PrivateUsers=yes")
    assert rest[-3:] == [
        "systemctl --user daemon-reload",
        f"systemctl --user enable {UNIT}",
        f"systemctl --user restart {UNIT}",
    ], "the manager says that an older one runs"


def test_a_first_installation_starts_and_a_second_one_changes_nothing(manager: Manager, unit: Path, cli) -> None:
    manager.says("systemctl", out="LoadState=not-found\nActiveState=inactive\n")
    assert cli("service", "install").code == 0
    enabled = ["systemctl --user daemon-reload", f"systemctl --user enable --now {UNIT}"]
    assert manager.calls[1:] == enabled
    before = unit.stat()
    manager.says("systemctl", out=_ACTIVE)
    ran = cli("service", "install", "--json")
    assert ran.record["changed"] is False
    assert manager.calls[1:] == enabled, "no restart of a service that is up to date"
    assert (unit.stat().st_ino, unit.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_print_touches_nothing(manager: Manager, tmp_path: Path, cli) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = cli("service", "install", "--print", "--dsn", PASSWORD)
    assert ran.code == 0
    assert "[Service]\n" in ran.out
    assert "s3cr3t" not in ran.out + ran.err
    for action in ("start", "stop", "restart"):
        assert cli("service", action, "--print").out == f"systemctl --user {action} {UNIT}\n"
    assert cli("service", "logs", "--print", "--lines", "7").out.endswith(f"--unit {UNIT} --no-pager --lines 7\n")
    assert cli("service", "uninstall", "--print").code == 0
    assert manager.calls == []
    assert sorted(tmp_path.rglob("*")) == before


def test_uninstall_removes_what_install_wrote_and_nothing_else(
    manager: Manager, unit: Path, tmp_path: Path, cli
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file() and "bin" not in path.parts}
    cli("service", "install", "--dsn", PASSWORD)
    unit.with_name("other.service").write_text("mine")
    manager.calls  # noqa: B018 - forgets them
    ran = cli("service", "uninstall")
    assert ran.out.splitlines() == [f"removed {unit}", f"removed {tmp_path}/config/atlasengine/atlas-watcher.env"]
    assert manager.calls == [f"systemctl --user disable --now {UNIT}", "systemctl --user daemon-reload"]
    after = {path for path in tmp_path.rglob("*") if path.is_file() and "bin" not in path.parts}
    assert after == before | {unit.with_name("other.service")}
    assert cli("service", "uninstall").out == f"{UNIT} is not installed\n"


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_of_somebody_else_stays(command: str, manager: Manager, unit: Path, cli) -> None:
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/usr/bin/mine\n")
    ran = cli("service", command)
    assert ran.code == 1
    assert ran.sentence == f"{unit} was not written by atlasctl service install; move it away first"
    unit.unlink()
    unit.symlink_to("/dev/null")
    assert "is a link" in cli("service", command).sentence
    assert unit.is_symlink()
    assert manager.calls == []


def test_a_password_is_only_in_a_file_that_nobody_else_reads(manager: Manager, unit: Path, tmp_path: Path, cli) -> None:
    assert cli("service", "install", "--dsn", PASSWORD).code == 0
    secret = tmp_path / "config/atlasengine/atlas-watcher.env"
    assert f"\nEnvironmentFile={secret}\n" in unit.read_text()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().splitlines()[1] == f'ATLAS_DATABASE_URL="{PASSWORD}"'
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]
    assert holders == [secret]
    secret.chmod(0o644)
    cli("service", "install", "--dsn", PASSWORD)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600, "a mode that somebody widened is narrowed again"
    cli("service", "install")
    assert not secret.exists(), "a service without a DSN keeps no password of an earlier one"


def test_the_callers_home_and_database_become_the_services(
    manager: Manager, unit: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / 'a "home" of 100% \\ $HOME é'
    monkeypatch.setenv("ATLAS_HOME", str(hostile))
    monkeypatch.setenv("ATLAS_KEEP_AUTO_DAYS", "7")
    assert cli("service", "install").code == 0
    (written,) = unit.parent.glob("atlas-watcher-*.service")
    text = written.read_text()
    assert f"Environment={word(f'ATLAS_HOME={hostile}')}\n" in text
    assert 'Environment="ATLAS_KEEP_AUTO_DAYS=7"\n' in text
    assert f"ReadWritePaths={word(str(hostile))} " in text
    assert hostile.is_dir(), "it must exist before everything else becomes read-only"
    monkeypatch.delenv("ATLAS_HOME")
    assert cli("--home", str(hostile), "service", "install").code == 0
    assert f'"watcher" "--home" {word(str(hostile), in_command=True)}\n' in written.read_text()


@pytest.mark.parametrize("name", ["a\nExecStart=/bin/evil", "a\x1b[2J", "a\u2028b", os.fsdecode(b"a\xff")])
def test_a_home_that_a_unit_cannot_hold_is_refused(
    name: str, manager: Manager, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / name))
    for options in ([], ["--print"]):
        ran = cli("service", "install", *options)
        assert ran.code == 2
        assert "which no unit can hold" in ran.sentence
    assert manager.calls == []


def test_without_namespaces_the_unit_leaves_out_what_would_not_start(manager: Manager, unit: Path, cli) -> None:
    manager.says("systemd-run", err="Failed to set up namespaces", code=1)
    ran = cli("service", "install")
    assert ran.code == 0
    assert "runs with fewer restrictions" in ran.err
    text = unit.read_text()
    assert "PrivateUsers" not in text
    assert "ProtectSystem" not in text
    assert "NoNewPrivileges=yes" in text


def test_status_tells_what_the_manager_knows(manager: Manager, unit: Path, cli) -> None:
    cli("service", "install")
    ran = cli("service", "status")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "service   active, process 77; starts by itself",
        f"unit      {unit}",
        "says      3 projects; 1 waiting",
        "restarts  2",
        "watcher   not running",
        "linger    no: it ends when you log out",
    ]
    assert set(cli("service", "status", "--json").record) == {
        *("problem", "unit", "scope", "file", "installed", "enabled", "state", "pid", "restarts", "result"),
        *("status", "linger", "watcher"),
    }
    unit.write_text(unit.read_text() + "Nice=19\n")
    assert "not what atlasctl service install would write" in cli("service", "status").out
    manager.says("systemctl", out=_ACTIVE.replace("=active", "=failed").replace("=success", "=watchdog"))
    failed = cli("service", "status")
    assert failed.code == 6
    assert "last end  watchdog" in failed.out


def test_a_service_that_is_not_installed_is_exit_code_6(manager: Manager, cli) -> None:
    manager.says("systemctl", out="LoadState=not-found\nActiveState=inactive\nStatusText=old\n")
    ran = cli("service", "status")
    assert ran.code == 6
    assert ran.out.startswith("service  not installed\n")
    assert "old" not in ran.out
    assert "atlasctl service install installs it" in ran.err
    assert "is not installed; run: atlasctl service install" in cli("service", "start").sentence


def test_orders_and_logs_go_to_the_manager(manager: Manager, cli) -> None:
    cli("service", "install")
    manager.calls  # noqa: B018 - forgets them
    manager.says("journalctl", out="a line\n")
    for action in ("start", "stop", "restart"):
        assert cli("service", action).out == f"{UNIT} is active\n"
    assert cli("service", "logs", "-f", "--lines", "3").out == "a line\n"
    assert manager.calls == [
        *(f"systemctl --user {action} {UNIT}" for action in ("start", "stop", "restart")),
        f"journalctl --user --unit {UNIT} --no-pager --lines 3 --follow",
    ]


def test_the_managers_own_words_are_the_error(manager: Manager, cli) -> None:
    manager.says("systemctl", err="Failed to connect to bus:\n No medium found\x1b[2J\n", code=1)
    ran = cli("service", "install")
    assert ran.code == 1
    assert ran.sentence == "systemctl --user daemon-reload failed: Failed to connect to bus: No medium found\\x1b[2J"


@pytest.mark.parametrize("command", ["install", "start", "stop", "restart"])
def test_where_no_manager_runs_the_ways_to_run_the_watcher_are_named(
    command: str, manager: Manager, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_manager, "BOOTED", tmp_path / "nothing")
    ran = cli("service", command)
    assert ran.code == 1
    assert "nohup atlas-watcher" in ran.sentence
    assert 'CMD ["atlas-watcher"]' in ran.sentence
    assert manager.calls == []
    status = cli("service", "status")
    assert status.code == 6
    assert status.out.startswith("service  none: ")
    assert "nohup atlas-watcher" in status.err
    assert cli("service", "install", "--print").out.startswith("# Written by")


def test_without_a_session_the_way_to_get_one_is_named(manager: Manager, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if not Path(f"/run/user/{os.getuid()}").is_dir():
        assert "loginctl enable-linger" in cli("service", "install").sentence


def test_root_installs_a_service_of_the_machine_for_an_account(
    manager: Manager, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "needs root" in cli("service", "install", "--system").sentence
    assert "--run-as is for a service of the machine" in cli("service", "install", "--run-as", "daemon").sentence
    monkeypatch.setattr(service_plan, "is_root", lambda: True)
    monkeypatch.setenv("SUDO_USER", "daemon")
    shown = cli("service", "install", "--print")
    assert "\nUser=daemon\n" in shown.out
    assert "WantedBy=multi-user.target" in shown.out
    assert f"/etc/systemd/system/{UNIT}" in shown.err
    monkeypatch.delenv("SUDO_USER")
    assert "\nUser=nobody\n" in cli("service", "install", "--print", "--run-as", "nobody").out
    assert cli("service", "install", "--run-as", "nobody\n").code == 3


def test_a_machine_service_needs_the_home_of_its_account(
    manager: Manager, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, for a home of another account")
    monkeypatch.setattr("atlas_sdk.cli.service_systemd._MACHINE_UNITS", tmp_path / "units")
    monkeypatch.setattr("atlas_sdk.cli.service_systemd._MACHINE_SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(service_plan, "is_root", lambda: True)
    home = tmp_path / "of daemon"
    monkeypatch.setenv("ATLAS_HOME", str(home))
    missing = cli("service", "install", "--run-as", "daemon")
    assert "does not exist; first run, as daemon: atlasctl init" in missing.sentence
    home.mkdir()
    assert "does not belong to daemon" in cli("service", "install", "--run-as", "daemon").sentence
    os.chown(home, 1, 1)
    assert cli("service", "install", "--run-as", "daemon", "--dsn", PASSWORD).code == 0
    (unit,) = (tmp_path / "units").iterdir()
    assert unit.stat().st_mode & 0o777 == 0o644
    (secret,) = (tmp_path / "secrets").iterdir()
    assert secret.stat().st_mode & 0o777 == 0o600


def test_macos_gets_a_launch_agent(manager: Manager, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager.platform, "system", lambda: "Darwin")
    manager.says("launchctl", code=0, out="\tstate = running\n\tpid = 78\n\truns = 4\n")
    shown = cli("service", "install", "--print", "--dsn", PASSWORD)
    assert "s3cr3t" not in shown.out + shown.err
    assert cli("service", "install", "--dsn", PASSWORD).code == 0
    path = tmp_path / "ada/Library/LaunchAgents/atlas-watcher.plist"
    assert path.stat().st_mode & 0o777 == 0o600
    job = plistlib.loads(path.read_bytes())
    assert (job["KeepAlive"], job["RunAtLoad"], job["ProcessType"]) == (True, True, "Background")
    assert job["ProgramArguments"][1:] == ["-P", "-m", "watcher"]
    assert job["EnvironmentVariables"]["ATLAS_DATABASE_URL"] == PASSWORD
    target = f"gui/{os.getuid()}"
    assert manager.calls == [
        f"launchctl bootout {target}/atlas-watcher",
        f"launchctl enable {target}/atlas-watcher",
        f"launchctl bootstrap {target} {path}",
    ]
    status = cli("service", "status", "--json").record
    assert (status["state"], status["pid"], status["restarts"], status["installed"]) == ("running", 78, 3, True)
    cli("service", "logs", "--follow")
    assert manager.calls == [f"tail -n 50 -F {tmp_path}/ada/data/atlasengine/watcher/service.log"]
    assert cli("service", "uninstall").out == f"removed {path}\n"
    path.write_bytes(plistlib.dumps({"Label": "atlas-watcher", "ProgramArguments": ["/usr/bin/mine"]}))
    assert "was not written by atlasctl" in cli("service", "uninstall").sentence


def test_init_installs_the_service_only_when_asked(
    manager: Manager, unit: Path, app: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ([], ["--no-service"]):
        ran = cli("init", *options)
        assert ran.code == 0
        assert "atlasctl service install" in ran.err, "without a terminal it says what to do"
    assert manager.calls == []
    assert not unit.parent.exists()
    ran = cli("init", "--service")
    assert ran.code == 0
    assert len([*unit.parent.glob("atlas-watcher-*.service")]) == 1
    manager.says("systemctl", err="no", code=1)
    ran = cli("init", "--service")
    assert ran.code == 0, "the folder is registered all the same"
    assert "the service is not installed" in ran.err


@pytest.mark.parametrize(("answer", "installed"), [(True, True), (False, False)])
def test_init_asks_on_a_terminal(
    answer: object,
    installed: object,
    manager: Manager,
    unit: Path,
    app: Path,
    cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("atlas_sdk.cli.invocation.Invocation.interactive", True)
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question) or answer)
    assert cli("init").code == 0
    assert asked == ["Start the watcher now and at every login, as a service?"]
    assert bool([*unit.parent.glob("*.service")]) is installed
