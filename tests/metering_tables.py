"""Write the tables of docs/metering.md from the code. Run it after a change of usage fields or outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from atlas_sdk.integrations.metering.outcomes import POLICIES, CallOutcome
from atlas_sdk.integrations.usage_fields import PARTS, SHAPES, UsageField

PAGE = Path(__file__).parents[1] / "docs" / "metering.md"

#: The field of `Price` for parts of another name.
_PRICES = {"web_searches": "web_search", "audio_seconds": "audio_minute"}
_UNITS = {"web_searches": "cost only", "audio_seconds": "cost only"}
_ENDS = {
    CallOutcome.REFUSED: "refused: a 4xx other than 408",
    CallOutcome.FAILED: "answered with a 5xx",
    CallOutcome.NO_ANSWER: "sent, but no answer: time-out, lost connection, cancellation, 408",
    CallOutcome.CUT: "a stream that was cut before its usage came",
    CallOutcome.OWN_REFUSAL: "refused by this SDK before it was sent",
    CallOutcome.NEVER_SENT: "never sent: no connection, an error in the program",
}
_CHARGES = {"free": "nothing", "reservation": "its reservation", "progress": "the usage so far"}


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def fields(shape: str) -> Iterator[str]:
    """Yield the lines of the table of one shape."""
    yield _row("field", "becomes", "price", "quota")
    yield "|---|---|---|---|"
    for row in SHAPES[shape]:
        yield _row(f"`{row.path}`", *_cells(row))


def _cells(row: UsageField) -> tuple[str, str, str]:
    note = f" ({row.note})" if row.note else ""
    if row.becomes in PARTS:
        part = f"`{row.becomes}`, taken from `{row.of}`" if row.of else f"`{row.becomes}`"
        return part + note, f"`{_PRICES.get(row.becomes, row.becomes)}`", _UNITS.get(row.becomes, "tokens")
    of = f"`{row.of}`" if row.of else ""
    return {
        "inside": (f"inside {of}{note}", "of that field", "of that field"),
        "total": (f"a surplus over all parts is {of}{note}", "of that field", "of that field"),
        "tier": (f"the tier{note}", "`tiers`", "none"),
        "region": (f"the region{note}", "`regions`", "none"),
        "model": (f"the model of this entry{note}", "that model's", "none"),
        "kind": (f"the kind of this entry{note}", "none", "none"),
        "free": (f"not billed{note}", "none", "none"),
    }[row.becomes]


def outcomes() -> Iterator[str]:
    """Yield the lines of the table of outcomes."""
    yield _row("a call, or an attempt of it, that is", "is charged by default", "because", "option and other values")
    yield "|---|---|---|---|"
    for outcome, policy in POLICIES.items():
        others = ", ".join(f'`"{value}"`' for value in policy["others"])
        yield _row(_ENDS[outcome], _CHARGES[policy["default"]], policy["reason"], f"`{policy['option']}`: {others}")


def tables() -> dict[str, str]:
    """Return the tables by name."""
    made = {shape: "\n".join(fields(shape)) for shape in SHAPES}
    return {**made, "outcomes": "\n".join(outcomes())}


def page(text: str) -> str:
    """Return the page with the tables of the code."""
    for name, table in tables().items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            message = f"docs/metering.md has no place for the table {name}"
            raise LookupError(message)
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
