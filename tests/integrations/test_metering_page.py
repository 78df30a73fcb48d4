"""The tables of docs/metering.md are those of the code."""

from __future__ import annotations

import metering_tables
import pytest


@pytest.mark.parametrize("name", metering_tables.tables())
def test_the_page_has_the_table_of_the_code(name: str) -> None:
    text = metering_tables.PAGE.read_text()
    expected = f"<!-- {name} -->\n{metering_tables.tables()[name]}\n<!-- end -->"
    assert expected in text, "run tests/metering_tables.py"


def test_writing_the_page_again_changes_nothing() -> None:
    text = metering_tables.PAGE.read_text()
    assert metering_tables.page(text) == text
