"""`.atlas.toml` is untrusted input. Any bytes give settings or one short sentence, at little cost."""

import os
import re
import sys
from functools import partial

import pytest
from cost import assert_cheap, peak_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files import Tracking, globs
from atlas_sdk.files import settings as module

LIMIT = 64 * 2**10


def quotes(globs):
    return b",".join(b'"%b"' % glob.encode() for glob in globs)


def track(**lists):
    return b"[track]\n" + b"".join(b"%b=[%b]\n" % (name.encode(), quotes(globs)) for name, globs in lists.items())


def folders(first):
    """Return 116 globs of 32 folders each, with no folder twice."""
    return ["/".join(chr(first + 32 * number + part) for part in range(32)) for number in range(116)]


LETTERS = [chr(ord("a") + number % 26) * (1 + number // 26) for number in range(32)]
#: Texts that made the parser, the globs or an error slow, large or long, each as long as the limit allows.
SEEDS = {
    "nested lists": b"x=" + b"[" * 5000 + b"]" * 5000,
    "nested tables": b"x=" + b"{a=" * 20000,
    "long header": b"[" + b"a." * 32000 + b"a]",
    "long key": b"x." * 32000 + b"x=1",
    "keys below a long header": b"[" + b"a." * 10000 + b"a]\n" + b"".join(b"k%d=1\n" % n for n in range(4500)),
    "keys of one table": b"".join(b"a.k%d=1\n" % n for n in range(6000)),
    "tables": b"".join(b"[a%d]\n" % n for n in range(7500)),
    "lists of tables": b"[[a]]\n" * 10000,
    "numbers": b"x=[" + b"1," * 32000 + b"]",
    "lists": b"x=[" + b"[]," * 20000 + b"]",
    "dots after four quotes": b'y={b="""a"""", ' + b"x." * 30000 + b"x=1}",
    "dots after eight quotes": b'y={b="""""""", ' + b"x." * 30000 + b"x=1}",
    "dots after four apostrophes": b"y={b='''a'''', " + b"x." * 30000 + b"x=1}",
    "dots after a comment in a string": b'y="# \\" #"\n' + b"x." * 30000 + b"x=1",
    "dots after CR": b"#\r" + b"x." * 30000 + b"x=1",
    "dots after CR LF": b"# '''\r\n" + b"x." * 30000 + b"x=1",
    "dots after an open string": b'x="\\\n' + b"x." * 30000 + b"x=1",
    "same long key twice": (b"'" + b"k" * 30000 + b"'=1\n") * 2,
    "unknown long key": b"'" + b"k" * 60000 + b"'=1",
    "unknown long preset": track(presets=["k" * 60000]),
    "key with control characters": b'"\\u202e\\u0007\\u001b[31m\\n"=1',
    "long bare key": b"a" * LIMIT,
    "quotes": b'"' * LIMIT,
    "apostrophes": b"'" * LIMIT,
    "escapes": b'[track]\npresets=["' + b'\\"' * 32700 + b'"]',
    "escaped lines": b'x="""' + b"\\\n " * 21800 + b'"""',
    "quotes in three quotes": b'x="""' + b'a""' * 21800 + b'"""',
    "apostrophes in three": b"x='''" + b"a''" * 21800 + b"'''",
    "huge number": b"[track]\nlimit_bytes=" + b"9" * 65000,
    "huge hexadecimal number": b"[track]\nlimit_bytes=0x" + b"f" * 65000,
    "huge fraction": b"x=" + b"1" * 30000 + b"." + b"2" * 30000,
    "huge exponent": b"x=1e" + b"9" * 60000,
    "huge time": b"x=1979-05-27T07:32:00." + b"9" * 65000,
    "no such date": b"x=1979-02-31",
    "no UTF-8": b"\xff" * LIMIT,
    "zeros": b"\0" * LIMIT,
    "byte order mark": b"\xef\xbb\xbf[track]",
    "lines": b"\n" * LIMIT,
    "comments": b"#\n" * (LIMIT // 2),
    "CR LF": b"\r\n" * (LIMIT // 2),
    "too large": b"#" * (LIMIT + 1),
    "folders in between": track(include=["**/a/" * 150 + "b"]),
    "folders": track(include=["a/" * 3000 + "b"]),
    "one preset a thousand times": track(presets=["claude"] * 1000),
    "patterns": track(
        include=["*a" * 30 + letter for letter in LETTERS], exclude=["*b" * 30 + letter for letter in LETTERS]
    ),
    "names": track(include=folders(0x4E00), exclude=folders(0x6E00)),
    "sets": track(include=[f"[!{letter}b-yA-Z0-9]*" for letter in LETTERS]),
}


def outcome(root, content):
    """Return the rules, or the sentence of the error."""
    (root / ".atlas.toml").write_bytes(content)
    try:
        return Tracking.load(root)
    except (InvalidInput, FileProblem) as error:
        return str(error)


def assert_short(sentence):
    assert sentence.startswith(".atlas.toml")
    assert sentence.isprintable()
    assert len(sentence) < 400


@pytest.mark.parametrize("name", SEEDS)
def test_hostile_settings_cost_little_and_give_a_short_sentence(tmp_path, name):
    found = outcome(tmp_path, SEEDS[name])
    if isinstance(found, str):
        assert_short(found)
    assert_cheap(lambda: outcome(tmp_path, SEEDS[name]))
    assert peak_bytes(lambda: outcome(tmp_path, SEEDS[name])) < 50 * 2**20


def test_hostile_globs_within_the_limits_cost_little_where_nothing_is_cached(tmp_path):
    def load(name):
        for cache in (globs._compiled, globs._compiled_to_exclude, globs._pattern):
            cache.cache_clear()
        re.purge()
        return outcome(tmp_path, SEEDS[name])

    for name in ("patterns", "names", "sets"):
        assert isinstance(load(name), Tracking)
        assert_cheap(partial(load, name))
        assert peak_bytes(partial(load, name)) < 50 * 2**20


TOKENS = [
    *(b"[track]\n", b"include=", b"exclude=", b"presets=", b"limit_bytes=", b'"**/*.md"', b"'a/[!b]?'", b"'claude'"),
    *(b"[", b"]", b"{", b"}", b".", b",", b"=", b"a", b"a=1\n", b"a.", b"\n", b"\r\n", b" ", b"#", b'"', b'"""', b"'"),
    *(b"'''", b"\\", b"\\u0041", b"1", b"_", b"-", b"1979-05-27", b"07:32:00.", b"e9", b"0x", b"true", b"nan"),
    *(b"\xc3\xa9", b"\xff", b"\0", b"\x1b", b"**/", b"*", b"?"),
]
runs = st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from([1, 1, 1, 2, 5, 400, 70000])), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.one_of(runs.map(lambda found: b"".join(token * times for token, times in found)), st.binary(max_size=200)))
@example(b"")
@example(b'[track]\ninclude = ["docs/**/*.md"]\n')
def test_any_bytes_give_settings_or_a_sentence(tmp_path_factory, content):
    root = tmp_path_factory.getbasetemp() / "any"
    root.mkdir(exist_ok=True)
    content = content[: LIMIT + 1]
    found = outcome(root, content)
    if isinstance(found, str):
        assert_short(found)
    else:
        assert found.scan(root).skipped == ()
    if len(content) > LIMIT // 2:
        assert_cheap(lambda: outcome(root, content))


def test_caller_who_is_deep_in_calls_gets_a_sentence_too(tmp_path):
    (tmp_path / ".atlas.toml").write_bytes(b"x=" + b"[" * 60 + b"]" * 60)

    def called(depth):
        return called(depth - 1) if depth else outcome(tmp_path, b"x=" + b"[" * 60 + b"]" * 60)

    for left in range(60, 200, 20):
        assert_short(called(sys.getrecursionlimit() - depth_here() - left))


def depth_here():
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.parametrize(
    "text",
    [
        "track = { include = ['a.md'], exclude = [] }",
        "track.include = ['a.md']\ntrack.exclude = []",
        '[track]\ninclude = [ # the one\n  """a.md""", # and only\n]',
        '[track]\ninclude = ["a.md"] # ' + "." * 100 + "\n[atlas]\ncolor = 'never'",
        "[track]\r\ninclude = ['''a.md''']\r\n",
        "\ufeff[track]\ninclude = ['a.md']\n",
    ],
)
def test_ways_to_write_the_same_settings(tmp_path, text):
    assert outcome(tmp_path, text.encode()) == Tracking(include=("a.md",))


def test_signs_in_strings_and_comments_are_not_counted(tmp_path):
    found = outcome(tmp_path, track(include=["[a]/=.{},.md"] * 200) + b"# = . [ {" * 100)
    assert found == Tracking(include=("[a]/=.{},.md",) * 200)


def test_longest_lists_that_are_allowed(tmp_path):
    include = tuple(f"docs/{number:03}/*.md" for number in range(256))
    found = outcome(tmp_path, track(include=include, exclude=include))
    assert found == Tracking(include=include, exclude=include)


# The owner of the file


def stat_of(path, **changed):
    found = path.stat()
    fields = {"st_mode": 0, "st_ino": 1, "st_dev": 2, "st_nlink": 3, "st_uid": 4, "st_gid": 5, "st_size": 6}
    values = list(found)
    for name, value in changed.items():
        values[fields[name]] = value
    return os.stat_result(values)


class Here:
    def __init__(self, root):
        self.folder = os.open(root, os.O_RDONLY)
        self.name = ".atlas.toml"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.folder)


def test_settings_of_another_user_are_refused(tmp_path):
    (tmp_path / ".atlas.toml").write_text("[track]\ninclude=['*']")
    owner = tmp_path.stat().st_uid
    with Here(tmp_path) as place:
        for uid in {0, os.geteuid(), owner}:
            module._check_file(stat_of(tmp_path / ".atlas.toml", st_uid=uid), place)
        with pytest.raises(FileProblem, match="belongs to user 4242, who does not own the project"):
            module._check_file(stat_of(tmp_path / ".atlas.toml", st_uid=4242), place)


def test_settings_of_the_projects_owner_are_read_by_others(tmp_path, monkeypatch):
    (tmp_path / ".atlas.toml").write_text("[track]\ninclude=['a.md']")
    monkeypatch.setattr(module.os, "geteuid", lambda: 4242)
    assert Tracking.load(tmp_path) == Tracking(include=("a.md",))


def test_symlink_is_not_followed_and_nothing_of_its_target_is_said(tmp_path):
    (tmp_path / "secret").write_text("password = 'hunter2'")
    (tmp_path / ".atlas.toml").symlink_to("secret")
    with pytest.raises(FileProblem) as caught:
        Tracking.load(tmp_path)
    assert str(caught.value) == (
        ".atlas.toml is a symlink; settings are read from a regular file only: replace it by one"
    )


def test_what_is_no_file_is_refused_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / ".atlas.toml")
    with pytest.raises(FileProblem, match="is a FIFO"):
        Tracking.load(tmp_path)
    (tmp_path / ".atlas.toml").unlink()
    (tmp_path / ".atlas.toml").mkdir()
    with pytest.raises(FileProblem, match="is a directory"):
        Tracking.load(tmp_path)


def test_huge_file_is_not_read(tmp_path):
    with (tmp_path / ".atlas.toml").open("wb") as file:
        file.truncate(2**40)

    def load():
        with pytest.raises(InvalidInput, match="larger than 65,536 bytes"):
            Tracking.load(tmp_path)

    assert_cheap(load)


def test_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / ".atlas.toml").write_bytes(b"#" * LIMIT)
    read = os.pread

    def grown(descriptor, size, offset):
        with (tmp_path / ".atlas.toml").open("ab") as file:
            file.write(b"#")
        return read(descriptor, size, offset)

    monkeypatch.setattr(module.os, "pread", grown)
    with pytest.raises(InvalidInput, match="larger than 65,536 bytes"):
        Tracking.load(tmp_path)


def test_file_that_is_written_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / ".atlas.toml"
    path.write_bytes(b"")
    read, calls = os.pread, []

    def written(descriptor, size, offset):
        calls.append(size)
        found = read(descriptor, size, offset)
        if len(calls) == 1:
            path.write_text("[track]\ninclude=['a.md']")
        return found

    monkeypatch.setattr(module.os, "pread", written)
    assert Tracking.load(tmp_path) == Tracking(include=("a.md",))
    assert len(calls) == 2
