"""Health of a database."""

from attrs import field, frozen

__all__ = ["Health"]


@frozen(kw_only=True)
class Health:
    """The answer of one look at the database."""

    ok: bool
    #: Milliseconds for one round trip; None when there was no answer.
    latency_ms: float | None = field(default=None, repr=lambda v: "-" if v is None else f"{v:.1f}")
    server_version: str | None = None
    #: The schema's version; None when unknown.
    schema_version: int | None = None
    database_bytes: int | None = None
    #: What stands between: "none", or a pooler such as PgBouncer, by its mode: "session", "transaction". None: unknown.
    pooler: str | None = None
    #: Whether connections are made with TLS; a socket of this machine needs none. None: unknown.
    encrypted: bool | None = None
    #: One sentence when not ok.
    problem: str | None = None
