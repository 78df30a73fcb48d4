"""The table of results: one row for each comparison, with its target."""

from collections.abc import Iterable, Sequence

from attrs import frozen

_HEADER = ("what", "ours", "peer", "ratio", "target", "")


@frozen
class Amount:
    """A number and its unit."""

    value: float
    unit: str = ""

    def __str__(self) -> str:
        text = f"{self.value:,.0f}" if abs(self.value) >= 100 or self.value == int(self.value) else f"{self.value:.3g}"
        return f"{text} {self.unit}".strip()


def ms(seconds: float) -> Amount:
    """Return seconds as milliseconds."""
    return Amount(seconds * 1000, "ms")


def bytes_(value: float) -> Amount:
    """Return an amount of bytes."""
    return Amount(value, "B")


def us(seconds: float) -> Amount:
    """Return seconds as microseconds."""
    return Amount(seconds * 1e6, "µs")


def count(value: float) -> Amount:
    """Return a plain number."""
    return Amount(value)


def per_second(value: float) -> Amount:
    """Return a rate."""
    return Amount(value, "/s")


@frozen
class Target:
    """A bound for a ratio, or for our own number if there is no peer."""

    sign: str
    bound: float

    def is_met_by(self, value: float) -> bool:
        """Return True if `value` meets the bound."""
        if self.sign == "≤":
            return value <= self.bound
        return value >= self.bound if self.sign == "≥" else value == self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:,g}"


def at_most(bound: float) -> Target:
    """Require at most this ratio of ours to the peer's, or at most this number."""
    return Target("≤", bound)


def at_least(bound: float) -> Target:
    """Require at least this ratio of the peer's time to ours, of our rate to the peer's, or at least this number."""
    return Target("≥", bound)


def exactly(bound: float) -> Target:
    """Require exactly this number."""
    return Target("=", bound)


@frozen(kw_only=True)
class Row:
    """One comparison. A row without a target has no verdict."""

    what: str
    ours: Amount | None = None
    peer: Amount | None = None
    target: Target | None = None
    #: The median of the ratios of rounds, for contenders that take turns. It varies less than the ratio of two medians.
    paired: float | None = None
    #: A note, such as the number of operations and their spread.
    note: str = ""
    #: The reason why there is no peer, in a sentence.
    missing: str = ""

    @property
    def ratio(self) -> float | None:
        """The ratio of ours to the peer's, or of the peer's to ours if the target is a bound for the peer's time."""
        if self.paired is not None:
            return self.paired
        if self.ours is None or self.peer is None:
            return None
        upper, lower = self.ours.value, self.peer.value
        if self.target is not None and self.target.sign == "≥" and self.ours.unit != "/s":
            upper, lower = lower, upper
        return upper / lower if lower else None

    @property
    def verdict(self) -> str:
        """PASS, FAIL, MISSING, or an empty text for a row without a target."""
        if self.missing:
            return "MISSING"
        if self.target is None:
            return ""
        value = self.ratio if self.peer is not None else self.ours and self.ours.value
        return "PASS" if value is not None and self.target.is_met_by(value) else "FAIL"

    def to_json(self) -> dict[str, object]:
        """Return the row as an object for JSON."""
        return {
            "what": self.what,
            "ours": self.ours and self.ours.value,
            "peer": self.peer and self.peer.value,
            "unit": (self.ours or self.peer or Amount(0)).unit,
            "ratio": self.ratio,
            "target": self.target and str(self.target),
            "verdict": self.verdict,
            "note": self.missing or self.note,
        }

    def _cells(self) -> tuple[str, ...]:
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        amounts = (str(self.ours or ""), str(self.peer or ""))
        return (f"  {self.what}", *amounts, ratio, str(self.target or ""), self.verdict)


def render(sections: Iterable[tuple[str, Sequence[Row]]]) -> str:
    """Return the sections as one table of text with aligned columns."""
    chosen = [(title, rows) for title, rows in sections if rows]
    cells = [_HEADER, *(row._cells() for _, rows in chosen for row in rows)]  # noqa: SLF001  # in the same module
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]

    def line(texts: Sequence[str], note: str = "") -> str:
        aligned = [
            text.ljust(width) if at in {0, 5} else text.rjust(width)
            for at, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return "  ".join([*aligned, note]).rstrip()

    lines = [line(_HEADER), "-" * (sum(widths) + 2 * len(widths))]
    for title, rows in chosen:
        lines += [title, *(line(row._cells(), row.missing or row.note) for row in rows)]  # noqa: SLF001
    return "\n".join(lines)
