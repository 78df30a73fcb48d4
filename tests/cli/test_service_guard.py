"""No test of the command line reaches the service manager of the machine."""

from __future__ import annotations

from pathlib import Path

from atlas_sdk.cli import service_manager, service_plan


def test_no_test_reaches_the_service_manager_of_the_machine(
    home: Path, folder: Path, cli, monkeypatch, tmp_path
) -> None:
    # As on a machine with systemd, and run by root.
    monkeypatch.setattr(service_plan, "is_root", lambda: True)
    assert not service_manager.BOOTED.exists()
    assert service_manager.BOOTED.is_relative_to(tmp_path)
    ran = cli("init", folder, "--service")
    assert ran.code == 0
    assert "warning: the service is not installed: " in ran.err
