"""Licences of the packages that a plain installation brings along: none is a GPL."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution

import pytest
from packaging.requirements import Requirement

#: Matches the GNU licences whose terms apply to programs that import the library. The LGPL's do not.
_GPL = re.compile(r"(?<![L])(?:A?GPL|GNU (?:Affero )?General Public)", re.IGNORECASE)


def closure(name: str) -> dict[str, Distribution]:
    """Return a distribution and all that it requires, without extras that no requirement names."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name)]
    while waiting:
        wanted = waiting.pop()
        made = distribution(wanted.name)
        found[wanted.name.lower()] = made
        for line in made.requires or ():
            needed = Requirement(line)
            asked = [{"extra": extra} for extra in (*wanted.extras, "")]
            if needed.name.lower() not in found and (
                needed.marker is None or any(needed.marker.evaluate(environment) for environment in asked)
            ):
                waiting.append(needed)
    return found


def licence(made: Distribution) -> str:
    """Return the licence in a distribution's metadata, from all fields that may have it."""
    meta = made.metadata
    said = [meta.get("License-Expression"), (meta.get("License") or "").split("\n")[0]]
    said += [line for line in meta.get_all("Classifier") or () if line.startswith("License ::")]
    return "; ".join(line for line in said if line)


def test_nothing_that_is_needed_at_run_time_is_under_the_gpl() -> None:
    found = {name: licence(made) for name, made in closure("atlasengine").items()}
    assert {"psycopg", "attrs", "click", "watchdog"} <= found.keys()
    assert all(found.values()), found
    assert {name: text for name, text in found.items() if is_gpl(text)} == {}


def is_gpl(text: str) -> bool:
    """Return whether a licence is a GPL."""
    return any(_GPL.search(part) for part in text.split(";")) and "Lesser" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPL-2.0-or-later", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0", True),
        ("LGPL-3.0-only", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0", False),
    ],
)
def test_the_check_knows_its_licences(text: str, *, expected: bool) -> None:
    assert is_gpl(text) is expected
