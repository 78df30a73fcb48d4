"""docs/memory-files.md shows the presets as they are."""

import re
from pathlib import Path

import memory_page

from atlas_sdk.files.left_out import temporary_of
from atlas_sdk.files.presets import PRESETS

ROOT = Path(__file__).parents[2]


def test_page_has_the_tables_of_the_presets():
    text = memory_page.PAGE.read_text("utf-8")
    assert memory_page.page(text) == text, "run: python tests/memory_page.py"
    listed = re.findall(r"^\| `([a-z-]+)` \| .* \|$", text.partition("## Nested files")[0], re.MULTILINE)
    assert listed == [name for name, preset in PRESETS.items() if preset.globs]
    assert all(preset.source for preset in PRESETS.values())


def test_examples_of_temporary_files_are_temporary():
    for tool, names in memory_page._EXAMPLES.items():
        assert {temporary_of(name) for name in names.split()} == {tool}


def test_page_is_linked():
    for page, link in (("README.md", "docs/memory-files.md"), ("docs/configuration.md", "memory-files.md")):
        assert f"({link}" in (ROOT / page).read_text("utf-8"), page
