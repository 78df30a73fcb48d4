"""Health of a database."""

from attrs import field, frozen

__all__ = ["Health"]


@frozen(kw_only=True)
class Health:
    """The result of one health check of the database."""

    ok: bool
    #: Milliseconds of one round trip; None when the database did not answer.
    latency_ms: float | None = field(default=None, repr=lambda v: "-" if v is None else f"{v:.1f}")
    server_version: str | None = None
    #: The schema's version; None when unknown.
    schema_version: int | None = None
    database_bytes: int | None = None
    #: "none", or the mode of the pooler (such as PgBouncer) in between: "session", "transaction". None when unknown.
    pooler: str | None = None
    #: True if the connection uses TLS. A local socket needs no TLS. None when unknown.
    encrypted: bool | None = None
    #: The problem in one sentence, when not ok.
    problem: str | None = None
