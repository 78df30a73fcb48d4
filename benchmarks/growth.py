"""The cost of operations while a tenant's ledger, audit trail and builds grow from 1,000 to 1,000,000 rows."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg

from atlas_sdk import Atlas, Project, SigningKeys, User
from benchmarks.bench import Bench
from benchmarks.table import Row, at_most, ms
from benchmarks.timing import Times, elapsed

_SIZES = (1_000, 10_000, 100_000, 1_000_000)
#: The most milliseconds at 10^6 rows of the ledger and of builds; for the views at 10^5 builds of a project. Slower
#: operations would need more stored sums.
_LIMIT_MS = {
    "users.usage_summary": 25.0,
    "projects.health": 25.0,
    "builds.stats of 30 days": 50.0,
    "usage.totals of everything by kind": 50.0,
}
#: Builds of a year and usage of three months. A query for the last week reads a fiftieth of the builds.
_FILL = {
    "ledger": """
        INSERT INTO usage_ledger (user_id, id, kind, amount, cost, meta, created_at)
        SELECT %(user)s, gen_random_uuid(), CASE WHEN n %% 10 = 0 THEN 'container_minutes' ELSE 'tokens' END, n %% 5000,
               (n %% 5000) * 0.000003, jsonb_build_object('model', (ARRAY['large', 'middle', 'small'])[1 + n %% 3]),
               now() - random() * interval '90 days'
        FROM generate_series(%(first)s::int, %(last)s::int) AS n
    """,
    "events": """
        INSERT INTO events (user_id, id, type, project_id, meta, created_at)
        SELECT %(user)s, gen_random_uuid(), (ARRAY['build.created', 'build.started', 'session.issued'])[1 + n %% 3],
               %(project)s, jsonb_build_object('n', n), now() - random() * interval '90 days'
        FROM generate_series(%(first)s::int, %(last)s::int) AS n
    """,
    "builds": """
        INSERT INTO builds (user_id, project_id, status, started_at, finished_at, created_at)
        SELECT %(user)s, %(project)s, s, CASE WHEN s <> 'queued' THEN t END,
               CASE WHEN s IN ('succeeded', 'failed') THEN t + random() * interval '5 minutes' END, t
        FROM (
            SELECT now() - random() * interval '365 days' AS t,
                   (ARRAY['succeeded', 'succeeded', 'failed', 'running', 'queued'])[1 + n %% 5] AS s
            FROM generate_series(%(first)s::int, %(last)s::int) AS n
        ) AS made
    """,
}


def growth(bench: Bench) -> list[Row]:
    """Let one tenant grow, and measure at each size."""
    sizes = _SIZES[:3] if bench.quick else _SIZES
    times: dict[str, list[Times]] = {}
    with Atlas.open(home=bench.home, signing_keys=SigningKeys.generate()) as atlas:
        user, project = bench.tenant("growth")
        token = atlas.sessions.issue(user).token
        calls = _calls(atlas, user, project, token)
        for before, size in pairwise((0, *sizes)):
            _fill(bench, user, project, first=before + 1, last=size)
            atlas.maintenance.sum_usage(batch=100_000)
            for name, (call, rounds) in calls.items():
                call()
                times.setdefault(name, []).append(Times([elapsed(call) for _ in range(rounds)]))
    return [_row(name, sizes, measured) for name, measured in times.items()]


def _row(name: str, sizes: tuple[int, ...], measured: list[Times]) -> Row:
    note = ", ".join(f"{each.p50 * 1000:.3g}" for each in measured)
    limit = at_most(_LIMIT_MS[name]) if name in _LIMIT_MS else None
    return Row(
        what=f"{name}, p50 at {sizes[-1]:,} rows" + ("" if limit else f" : at {sizes[0]:,}"),
        ours=ms(measured[-1].p50),
        peer=None if limit else ms(measured[0].p50),
        target=limit,
        note=f"{note} ms at {', '.join(f'{size:,}' for size in sizes)}; n {len(measured[-1])}",
    )


def _fill(bench: Bench, user: User, project: Project, *, first: int, last: int) -> None:
    with psycopg.connect(bench.atlas.url, autocommit=True) as connection:
        for text in _FILL.values():
            connection.execute(text, {"user": user.id, "project": project.id, "first": first, "last": last})
        # Do the work of autovacuum before the measurement, so that it does not run during it.
        connection.execute("VACUUM ANALYZE usage_ledger, events, builds")


def _calls(atlas: Atlas, user: User, project: Project, token: str) -> Mapping[str, tuple[Callable[[], object], int]]:
    """Return each operation with the number of its measurements."""

    def build_to_its_end() -> None:
        build = atlas.builds.start(atlas.builds.create(project))
        atlas.builds.succeed(build)

    day = timedelta(days=1)
    return {
        "usage.log": (lambda: atlas.usage.log(user, kind="minutes", amount=1), 200),
        "events.log": (lambda: atlas.events.log("bench.done", user=user, project=project), 200),
        "builds.create, start and succeed": (build_to_its_end, 100),
        "builds.list, 50": (lambda: atlas.builds.list(project), 100),
        "builds.stats of 30 days": (lambda: atlas.builds.stats(project), 7),
        "events.recent, 50": (lambda: atlas.events.recent(user), 100),
        "events.search, 50 of a type": (lambda: atlas.events.search(user, event_type="session."), 100),
        "usage.totals of a day by kind": (lambda: atlas.usage.totals(user, since=datetime.now(UTC) - day), 15),
        "usage.totals of everything by kind": (lambda: atlas.usage.totals(user), 5),
        "usage.totals of everything by day and model": (lambda: atlas.usage.totals(user, by=("day", "model")), 5),
        "users.usage_summary": (lambda: atlas.users.usage_summary(user), 200),
        "projects.health": (lambda: atlas.projects.health(project), 200),
        "sessions.verify": (lambda: atlas.sessions.verify(token), 200),
    }
