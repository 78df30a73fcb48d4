"""Random graphs of imports: the files that are reachable in five steps, at a bounded cost."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import followed, found

from atlas_sdk.files import imports

# Random graphs of imports


NAMES = ["CLAUDE.md", "a.md", "b.md", "docs/c.md", "docs/d.txt", "docs/deep/e.md", "alias/c.md", "link.md", "gone.md"]
ODD = [
    "../outside.md",
    "/etc/hosts",
    "~/x.md",
    "out/outside.md",
    "leaving.md",
    "docs",
    "fifo.md",
    "x.py",
    ".git/config",
]
graphs = st.dictionaries(st.sampled_from(NAMES[:6]), st.lists(st.sampled_from(NAMES + ODD), max_size=6), max_size=6)


def project(root, graph):
    """Write a graph of imports, among odd entries that lead nowhere. Every mention is relative to its file."""
    (root / "docs" / "deep").mkdir(parents=True)
    (root.parent / "outside.md").write_text("@a.md")
    (root / "alias").symlink_to("docs")
    (root / "link.md").symlink_to("docs/c.md")
    (root / "out").symlink_to("..")
    (root / "leaving.md").symlink_to("../outside.md")
    (root / "x.py").write_text("@a.md")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("@a.md")
    os.mkfifo(root / "fifo.md")
    for name, targets in graph.items():
        up = "../" * name.count("/")
        mention = (target if target[0] in "/~" else up + target for target in targets)
        (root / name).write_text(" ".join(f"@{target}" for target in mention))


def reachable(graph, start):
    """Return the files that a breadth-first search of five steps reaches."""
    real = {"alias/c.md": "docs/c.md"}
    seen, level = {start}, {start}
    for _ in range(5):
        # The mentions in the symlink's target are relative to the symlink, so all of them lead out of the project.
        found = {real.get(target, target) for name in level for target in graph.get(name, ())}
        found = {name for name in found if name in graph or (name == "link.md" and "docs/c.md" in graph)}
        level = found - seen
        seen |= level
    return sorted(seen - {start})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs)
def test_any_graph_gives_what_is_reachable_in_five_steps(tmp_path_factory, graph):
    root = tmp_path_factory.mktemp("graph") / "project"
    project(root, graph)
    assert followed(root) == reachable(graph, "CLAUDE.md")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs, st.integers(1, 6), st.integers(1, 12), st.integers(1, 4))
def test_any_graph_beyond_a_limit_gives_less_and_says_so(tmp_path_factory, graph, files, names, reads):
    root = tmp_path_factory.mktemp("graph") / "project"
    project(root, graph)
    everything = found(root)
    read, looked = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_MOST_FILES", files)
        patch.setattr(imports, "_MOST_NAMES", names)
        patch.setattr(imports, "_MOST_READ", reads * imports._LEAST_READ)
        reading, looking = imports._read, imports._Search._resolved
        patch.setattr(imports, "_read", lambda descriptor, size: read.append(size) or reading(descriptor, size))
        patch.setattr(imports._Search, "_resolved", lambda self, name: looked.append(name) or looking(self, name))
        some = found(root)
    assert set(some.paths) <= set(everything.paths)
    assert some == everything or some.left_out is not None
    assert some.left_out is None or "so its other @imports are not followed" in some.left_out
    assert len(some.paths) <= files
    assert len(read) <= reads
    assert sum(1 + name.count("/") for name in looked) <= names


def test_wide_and_deep_graph_costs_a_bounded_share(tmp_path):
    """Every file imports 150 others, and one mentions 100,000 names."""
    every = " ".join(f"@{number}.md" for number in range(150))
    for number in range(150):
        (tmp_path / f"{number}.md").write_text(every)
    (tmp_path / "CLAUDE.md").write_text(every + "".join(f" @n{number}" for number in range(100_000)))
    looked = []
    with pytest.MonkeyPatch.context() as patch:
        looking = imports._Search._resolved
        patch.setattr(imports._Search, "_resolved", lambda self, name: looked.append(name) or looking(self, name))
        some = found(tmp_path)
    assert len(some.paths) == 150
    assert some.left_out is not None
    assert len(looked) == imports._MOST_NAMES_OF_A_FILE
