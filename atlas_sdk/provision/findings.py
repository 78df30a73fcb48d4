"""The findings of an examination."""

from attrs import frozen

__all__ = ["Diagnosis", "Finding", "fine", "problem", "skipped", "unknown", "warning"]


@frozen(kw_only=True)
class Finding:
    """The result of one check."""

    #: The topic: "connection", "schema", "grants", …
    name: str
    #: "ok", "warning" (becomes a problem if nobody acts), "problem", "skipped" because of an earlier problem, or
    #: "unknown": this machine cannot see it.
    verdict: str
    detail: str
    #: The advice: commands for a shell, or for psql where they end with a semicolon; remarks begin with #.
    fix: tuple[str, ...] = ()


@frozen(kw_only=True)
class Diagnosis:
    """All findings of one examination."""

    #: The login and the database, without a password.
    place: str
    #: The source of the address: "--dsn", "ATLAS_DATABASE_URL", …
    source: str
    #: True if a connection was made.
    reachable: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True when no finding is a problem."""
        return all(finding.verdict not in {"problem", "skipped"} for finding in self.findings)


def fine(name: str, detail: str) -> Finding:
    """Return the finding for something that is in order."""
    return Finding(name=name, verdict="ok", detail=detail)


def problem(name: str, detail: str, *fix: str) -> Finding:
    """Return the finding for a problem, with advice."""
    return Finding(name=name, verdict="problem", detail=detail, fix=fix)


def warning(name: str, detail: str, *fix: str) -> Finding:
    """Return the finding for something that will become a problem, with advice."""
    return Finding(name=name, verdict="warning", detail=detail, fix=fix)


def unknown(name: str, detail: str, *fix: str) -> Finding:
    """Return the finding for something that this machine cannot see, with advice on how to check it."""
    return Finding(name=name, verdict="unknown", detail=detail, fix=fix)


def skipped(name: str, because: str) -> Finding:
    """Return the finding for a check that was skipped because of an earlier problem."""
    return Finding(name=name, verdict="skipped", detail=because)
