"""What has to be so in the end, with the workers' journals as witnesses."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, field

from atlas_sdk import Atlas, User
from benchmarks.race_quotas.journal import Entry, Grant, Outcome, Paid, Stay, entries
from benchmarks.race_quotas.watch import Row, Watch, problems

__all__ = ["Evidence", "broken_fences", "judge", "overlaps"]

_LEDGER = """
SELECT reservation_id::text, sum(amount) FILTER (WHERE kind IN ('tokens', 'expired'))::bigint, sum(cost),
       max(granted_tokens), max(granted_cost)
FROM usage_ledger WHERE user_id = %s AND reservation_id IS NOT NULL GROUP BY reservation_id
"""
_HELD = "SELECT count(*) FROM quota_reservations WHERE user_id = ANY(%s)"
#: The sliding hour has forgotten what is older.
_HOUR_S = 3600


@define
class Evidence:
    """What all workers noted, by user."""

    grants: dict[int, list[Grant]] = field(factory=lambda: defaultdict(list))
    paid: dict[int, dict[str, list[int]]] = field(factory=lambda: defaultdict(lambda: defaultdict(lambda: [0, 0])))
    stays: dict[int, dict[int, Stay]] = field(factory=lambda: defaultdict(dict))
    jobs: Counter[str] = field(factory=Counter)
    ends: Counter[str] = field(factory=Counter)

    @classmethod
    def read(cls, folder: Path) -> "Evidence":
        """Read every journal of a folder."""
        evidence = cls()
        for entry in entries(folder):
            evidence.take(entry)
        return evidence

    def take(self, entry: Entry) -> None:
        """Add an entry."""
        match entry:
            case Grant():
                self.grants[entry.user].append(entry)
            case Paid():
                sums = self.paid[entry.user][entry.id]
                sums[0] += entry.tokens
                sums[1] += entry.nano
            case Stay():
                self.stays[entry.user][entry.epoch] = entry
            case Outcome():
                self.jobs[entry.kind] += 1
                self.ends[entry.end] += 1


def broken_fences(grants: Iterable[Grant]) -> list[str]:
    """Return what is wrong with the epochs of a user: not unique, or lower for a promise that came after another's.

    After: it was asked for when the other one was answered already. A block of a lease counts at its first call.
    """
    first: dict[str, Grant] = {}
    for grant in grants:
        known = first.get(grant.id)
        if known is None or grant.answered < known.answered:
            first[grant.id] = grant
    by_epoch: dict[int, Grant] = {}
    found = []
    for grant in first.values():
        if grant.epoch == 0:
            continue
        other = by_epoch.setdefault(grant.epoch, grant)
        if other is not grant:
            found.append(f"epoch {grant.epoch} is of {grant.id} and of {other.id}")
    latest: Grant | None = None
    for grant in (by_epoch[epoch] for epoch in sorted(by_epoch)):
        if latest is not None and grant.answered < latest.asked:
            found.append(
                f"epoch {grant.epoch} was answered {latest.asked - grant.answered:.6f} s before the lower epoch "
                f"{latest.epoch} was asked for"
            )
        if latest is None or grant.asked > latest.asked:
            latest = grant
    return found


def overlaps(stays: Iterable[Stay]) -> int:
    """Return how many holders were sure of a slot at the same moment, at most."""
    turns = sorted(turn for stay in stays for turn in ((stay.since, 1), (stay.until, -1)))
    most = now = 0
    for _, change in turns:
        now += change
        most = max(most, now)
    return most


def judge(
    atlas: Atlas, dsn: str, users: Sequence[User], watch: Watch, evidence: Evidence, took_s: float
) -> tuple[list[str], list[str]]:
    """Return what is wrong, and what is worth to be told."""
    wrong: list[str] = []
    told: list[str] = []
    audit = atlas.quotas.verify()
    wrong += [f"the books do not balance: {books}" for books in audit.unbalanced]
    with psycopg.connect(dsn, autocommit=True) as connection:
        (left,) = connection.execute(_HELD, ([user.id for user in users],)).fetchone() or (None,)
        if left:
            wrong.append(f"{left} promises are left although all have expired")
        for number, user in enumerate(users):
            row, name = watch.rows[number], f"user {number}"
            wrong += problems(row, name)
            held = {key: row[key] for key in ("tokens_held", "cost_held", "requests_held", "containers_used")}
            if any(held.values()):
                wrong.append(f"{name} still holds something: {held}")
            ledger = {entry[0]: entry for entry in connection.execute(_LEDGER, (user.id,))}
            wrong += [f"{name}: {text}" for text in _charged_less(evidence.paid[number], ledger)]
            wrong += [f"{name}: {text}" for text in broken_fences(evidence.grants[number])]
            wrong += [
                f"{name}: {text}" for text in _admitted(evidence.grants[number], row, took_s, same_day=watch.same_day)
            ]
            together = overlaps(evidence.stays[number].values())
            if together > row["containers_limit"]:
                wrong.append(f"{name}: {together} holders had {row['containers_limit']} slots at the same moment")
            told.append(_sums(name, evidence, number, ledger, together))
    return wrong, told


def _charged_less(paid: dict[str, list[int]], ledger: dict[str, tuple[Any, ...]]) -> list[str]:
    """Compare, promise by promise, what workers were told was charged with what is charged, and that with the promise.

    A settlement that a crash of the server lost is charged in full by the expiry, so more is right and less is not.
    """
    found = []
    for reservation, (tokens, nano) in paid.items():
        _, charged, cost, _, _ = ledger.get(reservation, (reservation, 0, 0, 0, 0))
        if tokens > (charged or 0) or nano > int((cost or 0) * 10**9):
            found.append(
                f"{reservation} has used {tokens} tokens and ${nano / 10**9}: charged are {charged} and ${cost}"
            )
    for reservation, charged, cost, granted, granted_cost in ledger.values():
        if (charged or 0) > granted or cost > granted_cost:
            found.append(f"{reservation} is charged {charged} and ${cost}, promised were {granted} and ${granted_cost}")
    return found


def _admitted(grants: Iterable[Grant], row: Row, took_s: float, *, same_day: bool) -> list[str]:
    """Compare the requests and builds that workers were allowed with those that are counted."""
    requests = builds = 0
    for grant in grants:
        requests += grant.requests
        builds += grant.builds
    found = []
    if requests > row["request_sum"] and took_s < _HOUR_S:
        found.append(f"{requests} requests were admitted, {row['request_sum']} are counted")
    # At midnight the count begins anew.
    if builds > row["builds_used"] and same_day:
        found.append(f"{builds} builds were admitted, {row['builds_used']} are counted")
    return found


def _sums(name: str, evidence: Evidence, number: int, ledger: dict[str, tuple[Any, ...]], together: int) -> str:
    known = evidence.paid[number]
    charged = {id_: entry[1] or 0 for id_, entry in ledger.items()}
    more = sum(1 for id_, (tokens, _) in known.items() if tokens < charged.get(id_, 0))
    return (
        f"{name}: workers know of {sum(tokens for tokens, _ in known.values()):,} tokens, "
        f"charged are {sum(charged.values()):,}; of {len(known):,} settlements {more:,} are charged higher, because a "
        f"crash lost them or a kill a part of the note; slots held at once: {together}"
    )
