"""Single operations, compared with the cheapest statement, `SELECT 1`, and with the same operations through an ORM."""

import gc
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from atlas_sdk import Atlas, SigningKeys
from benchmarks.bench import Bench
from benchmarks.orm import Known, orm
from benchmarks.peers import MissingPeer
from benchmarks.table import Row, at_most, ms
from benchmarks.timing import Times, elapsed

#: The number of rows that sort before the measured rows, so that no measured row is the first of its index.
_NEIGHBOURS = 50
_WARM_UP = 3
#: The calls of a turn, and the first of them that do not count. After an ORM's turn the caches are cold, which would
#: make the comparison unfair.
_BURST = 12
_COLD = 2

Calls = Mapping[str, Callable[[], object]]


def operations(bench: Bench) -> list[Row]:
    """Read single rows in turn: with the SDK, with its `as_user`, with SQLAlchemy; and run `SELECT 1`.

    The CPU core on which a server process runs changes a round trip by a factor of three. So one server process serves
    all contenders but SQLAlchemy.
    """
    keys = SigningKeys.generate()
    missing = ""
    with ExitStack() as stack:
        atlas = stack.enter_context(Atlas.open(home=bench.home, signing_keys=keys, pool_max=1))
        known = _known(bench, atlas, keys)
        ours = _ours(atlas, known)
        tenant = _ours(atlas.as_user(known.user), known)
        try:
            theirs = stack.enter_context(orm(known))
        except MissingPeer as problem:
            theirs, missing = {}, str(problem)
        connection = atlas._driver._pool.get()  # noqa: SLF001  # the only connection, idle in other turns
        atlas._driver._pool.put(connection)  # noqa: SLF001
        contenders = {"SELECT 1": lambda: connection.execute("SELECT 1").fetchone()}
        for label, calls in (("ours", ours), ("as_user", tenant), ("orm", theirs)):
            # A token names its user, so an application verifies the token before it calls `as_user`.
            chosen = {name: call for name, call in calls.items() if label != "as_user" or name != "sessions.verify"}
            contenders |= {f"{label} {name}": call for name, call in chosen.items()}
        times = _take_turns(contenders, rounds=15 if bench.quick else 60)
    least = times["SELECT 1"]
    rows = [Row(what="SELECT 1, p50", ours=ms(least.p50), note=least.spread())]
    reads = [name for name in ours if name != "builds.create"]
    rows += [_row(f"{name} : SELECT 1, p50", times[f"ours {name}"], least, 2) for name in reads]
    for name in reads:
        if f"as_user {name}" in times:
            plain_p50, tenant_p50 = times[f"ours {name}"].p50, times[f"as_user {name}"].p50
            rows.append(
                Row(
                    what=f"what as_user adds to {name} : SELECT 1, p50",
                    ours=ms(tenant_p50 - plain_p50),
                    peer=ms(least.p50),
                    target=at_most(1),
                    note=f"{tenant_p50 * 1000:.3g} ms in place of {plain_p50 * 1000:.3g}",
                )
            )
    for name in ours:
        if missing:
            rows.append(Row(what=f"{name} : SQLAlchemy ORM, p50", missing=missing))
        else:
            rows.append(_row(f"{name} : SQLAlchemy ORM, p50", times[f"ours {name}"], times[f"orm {name}"], None))
    return rows


def _row(what: str, ours: Times, theirs: Times, bound: float | None) -> Row:
    target = None if bound is None else at_most(bound)
    return Row(what=what, ours=ms(ours.p50), peer=ms(theirs.p50), target=target, note=ours.spread())


def _known(bench: Bench, atlas: Atlas, keys: SigningKeys) -> Known:
    """Create a user, a project, a build, a preview and a session, each among other rows."""
    for number in range(_NEIGHBOURS):
        neighbour, project = bench.tenant(f"neighbour-{number}")
        atlas.builds.create(project)
        atlas.sessions.issue(neighbour)
    user, project = bench.tenant("operations")
    for _ in range(_NEIGHBOURS):
        build = atlas.builds.create(project)
    preview = atlas.previews.create(project, host="operations.bench.example")
    atlas.previews.set_status(preview, "running")
    token = atlas.sessions.issue(user).token
    return Known(url=atlas.url, keys=keys, token=token, user=user, project=project, build=build)


def _ours(atlas: Atlas, known: Known) -> Calls:
    user, project = known.user, known.project
    return {
        "users.get": lambda: atlas.users.get(user.id),
        "users.by_email": lambda: atlas.users.by_email(user.email),
        "projects.get": lambda: atlas.projects.get(user, project.id),
        "projects.by_session": lambda: atlas.projects.by_session(project.session_id),
        "builds.get": lambda: atlas.builds.get(user, known.build.id),
        "previews.active": lambda: atlas.previews.active(project),
        "sessions.verify": lambda: atlas.sessions.verify(known.token),
        "builds.create": lambda: atlas.builds.create(project),
    }


def _take_turns(contenders: Calls, *, rounds: int) -> dict[str, Times]:
    """Give each contender a turn in every round, in random order; the first rounds do not count."""
    times = {name: Times() for name in contenders}
    order = random.Random(0)
    gc.collect()
    gc.freeze()
    try:
        for turn in range(-_WARM_UP, rounds):
            for name in order.sample(list(contenders), len(contenders)):
                took_s = [elapsed(contenders[name]) for _ in range(_BURST)]
                if turn >= 0:
                    times[name].seconds.extend(took_s[_COLD:])
    finally:
        gc.unfreeze()
    return times
