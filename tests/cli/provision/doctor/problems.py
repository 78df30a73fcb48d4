"""The problems that the doctor reports, and a function that follows its advice."""

from __future__ import annotations

import shlex
from typing import Any

from servers import PrivateServer


def problems(ran: Any) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in ran.record["findings"] if one["verdict"] == "problem"}


def follow(cli: Any, server: PrivateServer, fix: list[str]) -> None:
    """Run the commands that the doctor advises: lines with `atlasctl` as command lines, other lines with psql."""
    for line in fix:
        if line.startswith("atlasctl "):
            assert server.url("atlas") in line
            assert cli(*shlex.split(line)[1:]).code == 0, line
        elif not line.startswith("#"):
            server.psql(line, "atlas")
