"""The findings of an examination."""

from typing import Final

from attrs import frozen

__all__ = ["Diagnosis", "Finding", "fine", "problem", "skipped", "some", "unknown", "warning"]

#: Names in one sentence; the rest is counted.
_NAMED: Final = 5


@frozen(kw_only=True)
class Finding:
    """The verdict on one thing."""

    #: What was looked at: "connection", "schema", "grants", …
    name: str
    #: "ok", "warning" (it becomes a problem if nothing is done), "problem", "skipped" because of an earlier problem, or
    #: "unknown": it cannot be seen from here.
    verdict: str
    detail: str
    #: How to mend it: commands of a shell, or of psql where they end with a semicolon; remarks begin with #.
    fix: tuple[str, ...] = ()


@frozen(kw_only=True)
class Diagnosis:
    """Everything that was looked at."""

    #: Who connected to what, without a password.
    place: str
    #: Where that was said.
    source: str
    #: Whether there was a connection.
    reachable: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True when there is nothing to mend now."""
        return all(finding.verdict not in {"problem", "skipped"} for finding in self.findings)


def fine(name: str, detail: str) -> Finding:
    """Return a good verdict."""
    return Finding(name=name, verdict="ok", detail=detail)


def problem(name: str, detail: str, *fix: str) -> Finding:
    """Return a bad verdict, and what to do about it."""
    return Finding(name=name, verdict="problem", detail=detail, fix=fix)


def warning(name: str, detail: str, *fix: str) -> Finding:
    """Return the verdict on what becomes a problem, and what to do about it."""
    return Finding(name=name, verdict="warning", detail=detail, fix=fix)


def unknown(name: str, detail: str, *fix: str) -> Finding:
    """Return no verdict on what cannot be seen from here, and how to look at it."""
    return Finding(name=name, verdict="unknown", detail=detail, fix=fix)


def skipped(name: str, because: str) -> Finding:
    """Return no verdict."""
    return Finding(name=name, verdict="skipped", detail=because)


def some(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
