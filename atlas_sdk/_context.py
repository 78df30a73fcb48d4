"""The context that a client gives to the plans that it runs."""

from collections.abc import Callable
from typing import Self
from uuid import UUID

from attrs import evolve, field, frozen

from atlas_sdk._heads import HeadCache
from atlas_sdk._keyring import Keyring
from atlas_sdk.errors import NotPermitted
from atlas_sdk.journal import ClientJournal
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.origin import Origin

__all__ = ["Context"]


@frozen(kw_only=True)
class Context:
    """The context of a client's plans. Only the drivers call `begin`, `join`, `commit` and `rollback`."""

    #: A function that makes a uuid v7: later ids sort after earlier ones.
    new_id: Callable[[], UUID]
    #: The author of changes, for the history and the audit trail.
    attribution: Attribution
    #: The newest versions that this client knows, so that unchanged content costs no round trip.
    heads: HeadCache
    #: A clock in seconds that never goes back.
    monotonic: Callable[[], float]
    #: Address and user agent of the request that the plans serve, for the audit.
    origin: Origin = field(factory=Origin)
    #: The journal of the client's home: writers deliver its records of a project before they write.
    journal: ClientJournal = field(factory=ClientJournal, repr=False)
    #: The ids of the journal's records that the open transaction has stored; None outside of a transaction. A rollback
    #: would undo their delivery, so they stay in the journal.
    delivered: set[UUID] | None = field(default=None, repr=False)
    #: The user whose rows row-level security shows; None if the login's own rights apply.
    tenant: UUID | None = None
    #: The keys that sign and verify session tokens.
    keyring: Keyring = field(factory=Keyring, repr=False)

    def require_tenant(self, user_id: object) -> None:
        """Raise NotPermitted for another tenant's id before any query, so the error reveals nothing."""
        if self.tenant is not None and user_id != self.tenant:
            raise NotPermitted("this client acts for one user alone, and this is not that user's")

    def begin(self) -> Self:
        """Return the context of a transaction that starts. The client learns its new versions after the commit."""
        return evolve(self, heads=self.heads.begin(), delivered=set())

    def join(self) -> Self:
        """Return the context of a transaction that the caller commits or rolls back without telling us."""
        return evolve(self, heads=self.heads.join(), delivered=set())

    def commit(self, transaction: "Context") -> None:
        """Add the versions that a committed transaction learned; `transaction` is the context from `begin`."""
        self.heads.adopt(transaction.heads)

    def rollback(self) -> None:
        """Forget the versions that this transaction learned, because it was rolled back, in whole or in part."""
        self.heads.clear()
        if self.delivered is not None:
            self.delivered.clear()
