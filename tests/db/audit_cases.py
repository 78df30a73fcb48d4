"""A case for every operation that writes an event: a call of the operation, and the type of the event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from previewing import preview_in

from atlas_sdk import Preview, Project, User

PASSWORD = "correct horse battery"
ORIGIN = ("203.0.113.9", "Firefox")


class World:
    """A client, its copy for one request, and a user, projects and previews, which are made when a case needs them."""

    def __init__(self, client: Any, connection: psycopg.Connection[Any], folder: Path) -> None:
        self.client = client
        self.connection = connection
        self.folder = folder
        self.request = client.with_context(ip=ORIGIN[0], user_agent=ORIGIN[1])

    @property
    def user(self) -> User:
        return self.client.users.by_email("ada@example.com") or self.client.users.create(
            "ada@example.com", password=PASSWORD
        )

    @property
    def project(self) -> Project:
        return self.client.projects.at(self.folder, user=self.user) or self.client.projects.create(
            self.user, path=self.folder
        )

    def preview(self, status: str = "creating") -> Preview:
        return preview_in(self.client, self.project, status)

    def restored(self) -> Project:
        """Return a project whose memory was restored."""
        project = self.project
        self.client.memory.snapshot(project, "CLAUDE.md")
        self.client.memory.checkpoint(project, "one")
        Path(self.folder, "CLAUDE.md").write_bytes(b"[rest unchanged]\n")
        self.client.memory.snapshot(project, "CLAUDE.md")
        self.client.memory.restore(project, "one")
        return project


class Case(NamedTuple):
    """An operation, the type of its event, and a function that prepares the call and returns it."""

    operation: str
    event: str
    prepare: Callable[[World], Callable[[Any], object]]
    #: True if the event belongs to the nil user, because it concerns no single user.
    nobody: bool = False


def _idle(world: World) -> Callable[[Any], object]:
    preview = world.preview("running")
    world.connection.execute("UPDATE previews SET last_accessed_at = now() - interval '1 day'")
    return lambda to: to.previews.put_to_sleep_idle() == [preview] or None


def _expired(world: World) -> Callable[[Any], object]:
    world.client.sessions.issue(world.user)
    world.connection.execute("UPDATE sessions SET created_at = created_at - interval '1 day', expires_at = now()")
    return lambda to: to.sessions.purge_expired()


def _full(world: World) -> Callable[[Any], object]:
    user = world.user
    world.client.memory.snapshot(world.project, "CLAUDE.md", b"# Rules\n" * 9)
    used = world.client.quotas.memory(user).bytes
    world.client.quotas.set_limits(user, memory_bytes=used + used // 10)
    return lambda to: to.quotas.record_memory_threshold(user)


def case(operation: str, event: str, act: Callable[..., object], *makers: Callable[[World], Any], **kind: Any) -> Case:
    """Return a case. `act` gets the client and the results of the makers, which run before."""

    def prepare(world: World) -> Callable[[Any], object]:
        made = [make(world) for make in makers]
        return lambda to: act(to, *made)

    return Case(operation, event, prepare, **kind)


def user(world: World) -> User:
    return world.user


def charge(world: World) -> tuple[User, UUID]:
    held = world.client.quotas.reserve(world.user, tokens=10)
    world.client.quotas.settle(world.user, held.id)
    return world.user, held.id


def project(world: World) -> Project:
    return world.project


def build(world: World) -> Any:
    return world.client.builds.create(world.project)


def running(world: World) -> Any:
    return world.client.builds.start(build(world))


def preview(status: str) -> Callable[[World], Preview]:
    return lambda world: world.preview(status)


def session(world: World) -> Any:
    return world.client.sessions.issue(world.user).session


CASES = [
    case("users.create", "user.created", lambda to: to.users.create("eve@example.com", plan="pro")),
    case("users.local", "user.created", lambda to: to.users.local()),
    case("users.set_plan", "user.plan_changed", lambda to, u: to.users.set_plan(u, "pro"), user),
    case("users.verify_email", "user.email_verified", lambda to, u: to.users.verify_email(u), user),
    case("users.update", "user.updated", lambda to, u: to.users.update(u, name="Ada"), user),
    case("users.delete", "user.deleted", lambda to, u: to.users.delete(u), user),
    case("users.authenticate", "user.signed_in", lambda to, u: to.users.authenticate(u.email, PASSWORD), user),
    case("users.authenticate", "user.sign_in_failed", lambda to, u: to.users.authenticate(u.email, "wrong"), user),
    case(
        "users.authenticate",
        "user.sign_in_failed",
        lambda to: to.users.authenticate("nobody@example.com", "wrong"),
        nobody=True,
    ),
    case("users.set_password", "user.password_changed", lambda to, u: to.users.set_password(u, PASSWORD * 2), user),
    case("sessions.issue", "session.issued", lambda to, u: to.sessions.issue(u), user),
    case("sessions.revoke", "session.revoked", lambda to, s: to.sessions.revoke(s), session),
    case("sessions.revoke_all", "session.all_revoked", lambda to, _, u: to.sessions.revoke_all(u), session, user),
    Case("sessions.purge_expired", "maintenance.sessions", _expired, nobody=True),
    case("projects.create", "project.created", lambda to, u: to.projects.create(u, path="/srv/app"), user),
    case("projects.archive", "project.archived", lambda to, p: to.projects.archive(p), project),
    case(
        "projects.activate",
        "project.activated",
        lambda to, p: to.projects.activate(p),
        lambda world: world.client.projects.archive(world.project),
    ),
    case("projects.move", "project.moved", lambda to, p: to.projects.move(p, "/srv/moved", force=True), project),
    case("projects.set_status", "project.archived", lambda to, p: to.projects.set_status(p, "archived"), project),
    case("projects.delete", "project.deleted", lambda to, p: to.projects.delete(p), project),
    case(
        "projects.purge",
        "project.purged",
        lambda to, p: to.projects.purge(p),
        lambda world: world.client.projects.delete(world.project),
    ),
    case(
        "projects.update_memory",
        "project.memory_updated",
        lambda to, p, _: to.projects.update_memory(p),
        project,
        lambda world: world.client.memory.snapshot(world.project, "CLAUDE.md"),
    ),
    case("memory.checkpoint", "checkpoint.created", lambda to, p: to.memory.checkpoint(p, "one"), project),
    case("memory.undo", "memory.undo", lambda to, p: to.memory.undo(p), World.restored),
    case(
        "memory.redo",
        "memory.redo",
        lambda to, p, _: to.memory.redo(p),
        World.restored,
        lambda world: world.client.memory.undo(world.project),
    ),
    case(
        "memory.restore",
        "memory.restore",
        lambda to, p, _: to.memory.restore(p, "one"),
        World.restored,
        lambda world: world.client.memory.undo(world.project),
    ),
    case("builds.create", "build.created", lambda to, p: to.builds.create(p), project),
    case("builds.start", "build.started", lambda to, b: to.builds.start(b, container_id="c1"), build),
    case("builds.succeed", "build.succeeded", lambda to, b: to.builds.succeed(b), running),
    case("builds.fail", "build.failed", lambda to, b: to.builds.fail(b, error="no"), build),
    case("previews.create", "preview.created", lambda to, p: to.previews.create(p, host="app.example.com"), project),
    *(
        case(
            "previews.set_status",
            f"preview.{to_status}",
            lambda to, p, to_status=to_status: to.previews.set_status(
                p, to_status, container_id="c1", health="healthy"
            ),
            preview("creating" if to_status == "running" else "running"),
        )
        for to_status in ("running", "sleeping", "stopped", "failed")
    ),
    case(
        "previews.set_status",
        "preview.changed",
        lambda to, p: to.previews.set_status(p, "running", network_id="n1", host_port=None),
        preview("running"),
    ),
    case("previews.stop", "preview.stopped", lambda to, p: to.previews.stop(p), preview("running")),
    Case("previews.put_to_sleep_idle", "preview.sleeping", _idle),
    case(
        "previews.allocate_port",
        "preview.port_allocated",
        lambda to, p: to.previews.allocate_port(p),
        preview("running"),
    ),
    case(
        "previews.release_port",
        "preview.port_released",
        lambda to, p: to.previews.release_port(p),
        lambda world: world.client.previews.allocate_port(world.preview("running")),
    ),
    case("quotas.set_limits", "quota.limits_changed", lambda to, u: to.quotas.set_limits(u, tokens=5), user),
    case(
        "quotas.use_plan_limits",
        "quota.limits_of_plan",
        lambda to, u, _: to.quotas.use_plan_limits(u),
        user,
        lambda world: world.client.quotas.set_limits(world.user, tokens=5),
    ),
    case(
        "quotas.set_time_zone", "quota.time_zone_changed", lambda to, u: to.quotas.set_time_zone(u, "Asia/Tokyo"), user
    ),
    case(
        "quotas.add_plan",
        "quota.plan_limits_changed",
        lambda to: to.quotas.add_plan(
            "team", tokens=1, cost=None, containers=1, requests_per_hour=None, builds_per_day=None
        ),
        nobody=True,
    ),
    case(
        "quotas.set_plan_limits",
        "quota.plan_limits_changed",
        lambda to: to.quotas.set_plan_limits("pro", tokens=7),
        nobody=True,
    ),
    case(
        "quotas.grant",
        "quota.granted",
        lambda to, u: to.quotas.grant(u, tokens=5, expires_in=timedelta(days=1), reason="sorry"),
        user,
    ),
    case("quotas.refund", "quota.refunded", lambda to, of: to.quotas.refund(*of, tokens=5, reason="twice"), charge),
    Case("quotas.record_memory_threshold", "quota.memory", _full),
    case("quotas.reset_monthly", "maintenance.periods", lambda to: to.quotas.reset_monthly(), nobody=True),
    case("maintenance.run", "maintenance.claims", lambda to: to.maintenance.run(["claims"]), nobody=True),
    *(
        case(
            f"maintenance.{name}",
            f"maintenance.{job}",
            lambda to, name=name: getattr(to.maintenance, name)(),
            nobody=True,
        )
        for name, job in (
            ("close_periods", "periods"),
            ("reclaim_reservations", "reservations"),
            ("purge_sessions", "sessions"),
            ("purge_previews", "previews"),
            ("purge_claims", "claims"),
            ("purge_events", "events"),
            ("prune_snapshots", "snapshots"),
            ("collect_contents", "contents"),
            ("sum_usage", "usage"),
        )
    ),
    case("events.log", "deploy.done", lambda to, u: to.events.log("deploy.done", user=u), user),
]
