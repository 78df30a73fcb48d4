"""Quotas in memory, for tests of charges that need no database. The guards are the real ones."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from attrs import evolve, frozen

from atlas_sdk import QuotaExceeded, User
from atlas_sdk.guards import AsyncGuard, Guard

NOW = datetime(2026, 11, 30, tzinfo=UTC)
USER = User(id=uuid.uuid4(), email="ada@example.com", plan="pro", email_verified=True, created_at=NOW, updated_at=NOW)


@frozen(kw_only=True)
class Grant:
    id: uuid.UUID
    tokens: int
    cost: Decimal
    meta: dict[str, Any]
    epoch: int | None = None


class Backend:
    """The backend of blocking guards. It has a limit of tokens, or none."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.held = 0
        self.entries: list[SimpleNamespace] = []

    def reserve(self, user: User, options: Any, wait: Any = None) -> Grant:
        assert wait is None
        tokens = self._granted(options["tokens"], options.get("min_tokens"))
        return Grant(id=uuid.uuid4(), tokens=tokens, cost=options["cost"], meta=dict(options.get("meta") or {}))

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Any, ttl: Any) -> Grant:
        return evolve(grant, tokens=grant.tokens + self._granted(tokens, None), cost=grant.cost + Decimal(cost))

    def settle(self, user: User, grant: Grant, outcome: Any) -> None:
        self.held -= grant.tokens
        tokens = grant.tokens if outcome.tokens is None else outcome.tokens
        cost = grant.cost if outcome.cost is None else outcome.cost
        self.entries.append(
            SimpleNamespace(
                kind="released" if outcome.releases else "tokens",
                amount=0 if outcome.releases else tokens,
                cost=Decimal() if outcome.releases else cost,
                granted=grant.tokens,
                granted_cost=grant.cost,
                meta={**grant.meta, **(outcome.meta or {})},
            )
        )

    def _granted(self, wanted: int, least: int | None) -> int:
        left = wanted if self.limit is None else self.limit - self.held - sum(entry.amount for entry in self.entries)
        granted = min(wanted, left)
        if granted < (wanted if least is None else least):
            raise QuotaExceeded(dimension="tokens", asked=wanted, remaining=left, limit=self.limit)
        self.held += granted
        return granted


class MemoryQuotas:
    """The quotas of one user, for blocking clients."""

    def __init__(self, limit: int | None = None) -> None:
        self.backend = Backend(limit)

    def reserve(self) -> None:
        """Show which kind of quotas this is."""

    def guard(self, user: User, **options: Any) -> Any:
        return Guard(self.backend, user, options)  # type: ignore[arg-type]  # a smaller backend

    @property
    def entries(self) -> list[SimpleNamespace]:
        return self.backend.entries

    @property
    def entry(self) -> SimpleNamespace:
        """Return the only entry, after all reservations have ended."""
        (entry,) = self.backend.entries
        assert self.backend.held == 0
        return entry


class _AsyncBackend:
    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    async def reserve(self, *args: Any) -> Any:
        return self.inner.reserve(*args)

    async def extend(self, *args: Any, **options: Any) -> Any:
        return self.inner.extend(*args, **options)

    async def settle(self, *args: Any) -> Any:
        return self.inner.settle(*args)


class AsyncMemoryQuotas(MemoryQuotas):
    """The quotas of one user, for asyncio clients."""

    async def reserve(self) -> None:  # type: ignore[override]  # shows which kind of quotas this is
        pass

    def guard(self, user: User, **options: Any) -> Any:
        return AsyncGuard(_AsyncBackend(self.backend), user, options)  # type: ignore[arg-type]  # as above
