"""The invariants at the end of the race, checked with the workers' journals."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, evolve, field

from atlas_sdk import Atlas, User
from benchmarks.race_quotas.journal import Entry, Grant, Outcome, Paid, Stay, entries, nano
from benchmarks.race_quotas.watch import Row, Watch, problems

_LEDGER = """
SELECT reservation_id::text, sum(amount) FILTER (WHERE kind IN ('tokens', 'expired'))::bigint, sum(cost),
       max(granted_tokens), max(granted_cost), bool_or(kind = 'tokens')
FROM usage_ledger WHERE user_id = %s AND reservation_id IS NOT NULL GROUP BY reservation_id
"""
_HELD = "SELECT count(*) FROM quota_reservations WHERE user_id = ANY(%s)"
_WAITING = "SELECT count(*) FROM quota_waiters WHERE user_id = ANY(%s) AND alive_until > clock_timestamp()"
#: The sliding hour in seconds. Older requests no longer count.
_HOUR_S = 3600


@define
class Evidence:
    """The entries of all workers, by user."""

    grants: dict[int, list[Grant]] = field(factory=lambda: defaultdict(list))
    #: Settlements by user and reservation.
    paid: dict[int, dict[str, Paid]] = field(factory=lambda: defaultdict(dict))
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
                before = self.paid[entry.user].get(entry.id)
                if before is not None:
                    entry = evolve(entry, tokens=before.tokens + entry.tokens, nano=before.nano + entry.nano)
                self.paid[entry.user][entry.id] = entry
            case Stay():
                self.stays[entry.user][entry.epoch] = entry
            case Outcome():
                self.jobs[entry.kind] += 1
                self.ends[entry.end] += 1


def broken_fences(grants: Iterable[Grant]) -> list[str]:
    """Return errors in the epochs of a user: not unique, or lower for a later reservation.

    A reservation is later than another if it was requested after the answer to the other. For a block, its first call
    counts.
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
    """Return the largest number of holders that were sure of a slot at the same time."""
    turns = sorted(turn for stay in stays for turn in ((stay.since, 1), (stay.until, -1)))
    most = now = 0
    for _, change in turns:
        now += change
        most = max(most, now)
    return most


def judge(
    atlas: Atlas, dsn: str, users: Sequence[User], watch: Watch, evidence: Evidence, took_s: float
) -> tuple[list[str], list[dict[str, object]]]:
    """Return the errors, and the sums of each user."""
    wrong: list[str] = []
    sums: list[dict[str, object]] = []
    audit = atlas.quotas.verify()
    wrong += [f"the counters do not match the ledger: {row}" for row in audit.unbalanced]
    with psycopg.connect(dsn, autocommit=True) as connection:
        (left,) = connection.execute(_HELD, ([user.id for user in users],)).fetchone() or (None,)
        if left:
            wrong.append(f"{left} reservations are left although all have expired")
        (waiting,) = connection.execute(_WAITING, ([user.id for user in users],)).fetchone() or (None,)
        if waiting:
            wrong.append(f"{waiting} calls still wait although no worker runs")
        for number, user in enumerate(users):
            row, name = watch.rows[number], f"user {number}"
            wrong += problems(row, name)
            held = {key: row[key] for key in ("tokens_held", "cost_held", "requests_held", "containers_used")}
            if any(held.values()):
                wrong.append(f"{name} still holds something: {held}")
            ledger = {entry[0]: entry for entry in connection.execute(_LEDGER, (user.id,))}
            wrong += [f"{name}: {text}" for text in miscounted(evidence.paid[number], ledger)]
            wrong += [f"{name}: {text}" for text in broken_fences(evidence.grants[number])]
            wrong += [
                f"{name}: {text}" for text in _admitted(evidence.grants[number], row, took_s, same_day=watch.same_day)
            ]
            together = overlaps(evidence.stays[number].values())
            if together > row["containers_limit"]:
                wrong.append(f"{name}: {together} holders had {row['containers_limit']} slots at the same moment")
            sums.append(_sums(evidence, number, row, ledger, together))
    return wrong, sums


def miscounted(paid: dict[str, Paid], ledger: dict[str, tuple[Any, ...]]) -> list[str]:
    """Compare the workers' settlements with the charges, and the charges with the reservations.

    A crash may lose a settlement. The expiry then charges the whole reservation, so a higher charge is valid. A killed
    worker may have noted less than it used of a block. A charge below the usage is never valid.
    """
    found = []
    for told in paid.values():
        _, tokens, cost, _, _, settled = ledger.get(told.id, (told.id, 0, 0, 0, 0, False))
        charged = (tokens or 0, nano(cost or 0))
        short = told.tokens > charged[0] or told.nano > charged[1]
        if short or (settled and told.whole and charged != (told.tokens, told.nano)):
            found.append(f"{told.id} has used {told.tokens} tokens and {told.nano} nano-dollars: charged are {charged}")
    for reservation, tokens, cost, granted, granted_cost, _ in ledger.values():
        if (tokens or 0) > granted or cost > granted_cost:
            found.append(f"{reservation} is charged {tokens} and ${cost}, reserved were {granted} and ${granted_cost}")
    return found


def _admitted(grants: Iterable[Grant], row: Row, took_s: float, *, same_day: bool) -> list[str]:
    """Compare the requests and builds that were granted to workers with the database's counts; return the errors."""
    requests = builds = 0
    for grant in grants:
        requests += grant.requests
        builds += grant.builds
    found = []
    if requests > row["request_sum"] and took_s < _HOUR_S:
        found.append(f"{requests} requests were admitted, {row['request_sum']} are counted")
    # The count restarts at midnight.
    if builds > row["builds_used"] and same_day:
        found.append(f"{builds} builds were admitted, {row['builds_used']} are counted")
    return found


def _sums(
    evidence: Evidence, number: int, row: Row, ledger: dict[str, tuple[Any, ...]], together: int
) -> dict[str, object]:
    known = evidence.paid[number]
    charged = {id_: entry[1] or 0 for id_, entry in ledger.items()}
    return {
        "user": number,
        "reservations": len(evidence.grants[number]),
        "tokens told": sum(told.tokens for told in known.values()),
        "charged": sum(charged.values()),
        "limit": row["tokens_limit"],
        # A crash lost the settlement and the expiry charged all, or a kill lost later notes of a block.
        "charged higher": sum(1 for told in known.values() if told.tokens < charged.get(told.id, 0)),
        "expired": sum(1 for entry in ledger.values() if not entry[5] and entry[1]),
        "requests": row["request_sum"],
        "of": row["requests_limit"],
        "slots at once": together,
    }
