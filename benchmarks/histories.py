"""Edit histories of memory files for the benchmarks: real ones if available, else generated ones.

Generated histories follow the edits of agents: of 100 edits 55 append, 28 change a line, 10 rewrite a section, 4
move or delete one, 1 rewrites everything and 2 go back to an earlier version.
"""

import os
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS_VARIABLE = "ATLAS_CORPUS"

#: Numbers per 100 edits.
EDIT_SHARES = {"append": 55, "in-place": 28, "section": 10, "move-or-delete": 4, "rewrite": 1, "revert": 2}
#: Bounds of the size of every generated version.
SIZE_LIMITS = (2_000, 50_000)
#: Versions and sizes of the generated histories, similar to real ones.
_MADE = ((300, 20_000), (150, 5_000), (100, 25_000), (80, 2_500), (60, 10_000), (60, 40_000))
#: The most versions that an edit goes back.
_REVERT_LIMIT = 20
_VOCABULARY_WORDS = 1_500
_SYLLABLES = (
    *("ba", "co", "de", "fi", "gra", "ha", "in", "ke", "lo", "mi"),
    *("no", "per", "qua", "re", "sta", "ti", "un", "ver", "wo", "ze"),
)


@frozen(kw_only=True)
class History:
    """The versions of one file in order."""

    name: str
    versions: tuple[bytes, ...]


@frozen(kw_only=True)
class Corpus:
    """Histories, with a line about their source."""

    origin: str
    histories: tuple[History, ...]


@frozen(kw_only=True)
class Edit:
    """One step of a generated history: the kind of edit, and the file afterwards."""

    kind: str
    content: bytes


def load() -> Corpus:
    """Return the real histories beside the checkout or in ATLAS_CORPUS; without them, generated ones."""
    given = os.environ.get(CORPUS_VARIABLE)
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "corpus"
    archives = sorted(folder.glob("*.tar.xz"))
    if archives:
        histories = tuple(_unpack(archive) for archive in archives)
        return Corpus(origin="real", histories=histories)
    if given:
        message = f"{CORPUS_VARIABLE} is {given!r}, and there is no .tar.xz in it; unset it for made histories"
        raise SystemExit(message)
    return Corpus(origin="made", histories=tuple(made(seed, *shape) for seed, shape in enumerate(_MADE)))


def _unpack(archive: Path) -> History:
    with tarfile.open(archive) as tar:
        members = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        files = [tar.extractfile(member) for member in members]
        versions = tuple(file.read() for file in files if file is not None)
    return History(name=archive.name.removesuffix(".tar.xz"), versions=versions)


def pick(corpus: Corpus, *, low_bytes: int, high_bytes: int, limit: int) -> list[tuple[str, bytes]]:
    """Return successive versions with sizes in these bounds as (path, content), from the longest histories first."""
    picked = []
    for history in sorted(corpus.histories, key=lambda history: -len(history.versions)):
        fitting = [version for version in history.versions if low_bytes <= len(version) <= high_bytes]
        changed = [now for before, now in zip([b"", *fitting], fitting, strict=False) if now != before]
        picked += [(f"{history.name}.md", version) for version in changed]
    return picked[:limit]


def made(seed: int, versions: int, size_bytes: int) -> History:
    """Generate a history of so many versions with sizes near `size_bytes`. The same seed gives the same bytes."""
    contents = []
    for edit in edits(seed, size_bytes=size_bytes):
        contents.append(edit.content)
        if len(contents) == versions:
            break
    return History(name=f"made-{seed}-{size_bytes}", versions=tuple(contents))


def edits(seed: int, *, size_bytes: int) -> Iterator[Edit]:
    """Yield the steps of an endless history, in which no version equals the one before."""
    writer = _Writer(random.Random(seed), size_bytes)
    kinds, weights = tuple(EDIT_SHARES), tuple(EDIT_SHARES.values())
    document = writer.document()
    past = [document]
    yield Edit(kind="rewrite", content=_bytes(document))
    while True:
        kind = writer.rng.choices(kinds, weights)[0]
        if kind == "revert":
            older = [version for version in past[-_REVERT_LIMIT:] if version != document]
            following = writer.rng.choice(older) if older else writer.append(document)
        else:
            following = writer.actions[kind](document)
        if following == document:
            continue
        document = following
        past = [*past[-_REVERT_LIMIT:], document]
        yield Edit(kind=kind, content=_bytes(document))


#: Sections, each with a heading and lines.
Document = tuple[tuple[str, ...], ...]


def _bytes(document: Document) -> bytes:
    return "\n\n".join("\n".join(section) for section in document).encode() + b"\n"


class _Writer:
    """A writer of documents and edits, with one random generator."""

    def __init__(self, rng: random.Random, size_bytes: int) -> None:
        self.rng = rng
        self._size_bytes = size_bytes
        self._words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(_VOCABULARY_WORDS)]
        # Zipf's law: the n-th word occurs 1/n times as often as the first.
        self._weights = [1 / rank for rank in range(1, _VOCABULARY_WORDS + 1)]
        self.actions: dict[str, Callable[[Document], Document]] = {
            "append": self.append,
            "in-place": self.change_line,
            "section": self.rewrite_section,
            "move-or-delete": self.move_or_delete,
            "rewrite": lambda _: self.document(),
        }

    def document(self) -> Document:
        sections: list[tuple[str, ...]] = []
        while len(_bytes(tuple(sections))) < self._size_bytes * 0.8:
            sections.append(self._section(self.rng.randint(4, 12)))
        return self._fitted(tuple(sections))

    def append(self, document: Document) -> Document:
        *before, last = document
        lines = tuple(self._line() for _ in range(self.rng.randint(1, 3)))
        if len(last) > 16:
            return self._fitted((*document, (self._heading(), *lines)))
        return self._fitted((*before, (*last, *lines)))

    def change_line(self, document: Document) -> Document:
        at = self.rng.randrange(len(document))
        section = list(document[at])
        line = self.rng.randrange(len(section))
        words = section[line].split(" ")
        for _ in range(self.rng.randint(1, 4)):
            words[self.rng.randrange(1, len(words))] = self._word()
        section[line] = " ".join(words)
        return self._fitted((*document[:at], tuple(section), *document[at + 1 :]))

    def rewrite_section(self, document: Document) -> Document:
        at = self.rng.randrange(len(document))
        # An agent that rewrites a section of a grown file makes it shorter.
        share = 0.4 if len(_bytes(document)) > self._size_bytes else 1.1
        section = self._section(max(2, round((len(document[at]) - 1) * share)))
        return self._fitted((*document[:at], section, *document[at + 1 :]))

    def move_or_delete(self, document: Document) -> Document:
        at = self.rng.randrange(len(document))
        left = (*document[:at], *document[at + 1 :])
        if len(_bytes(document)) > self._size_bytes and len(left) > 1:
            return self._fitted(left)
        to = self.rng.randrange(len(document))
        return self._fitted((*left[:to], document[at], *left[to:]))

    def _fitted(self, document: Document) -> Document:
        low, high = SIZE_LIMITS
        while len(_bytes(document)) > high:
            document = document[1:]
        while len(_bytes(document)) < low:
            document = (*document, self._section(6))
        return document

    def _section(self, lines: int) -> tuple[str, ...]:
        return (self._heading(), *(self._line() for _ in range(lines)))

    def _heading(self) -> str:
        return f"## {self._sentence(2, 5)}"

    def _line(self) -> str:
        return f"- {self._sentence(8, 28)}."

    def _sentence(self, low: int, high: int) -> str:
        return " ".join(self.rng.choices(self._words, self._weights, k=self.rng.randint(low, high))).capitalize()

    def _word(self) -> str:
        return self.rng.choices(self._words, self._weights)[0]


def describe(histories: Sequence[History]) -> str:
    """Return a text with the number and the sizes of the histories."""
    sizes = [len(version) for history in histories for version in history.versions]
    return f"{len(histories)} histories, {len(sizes):,} versions, {sum(sizes) // len(sizes):,} bytes a version"
