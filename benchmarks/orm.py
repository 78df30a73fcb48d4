"""The operations as an application writes them with SQLAlchemy's ORM, with a session for each and SQLAlchemy's pool."""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from attrs import frozen

from atlas_sdk import Build, Project, SigningKeys, User
from benchmarks.peers import needs_module


@frozen(kw_only=True)
class Known:
    """The rows to read."""

    url: str
    keys: SigningKeys
    token: str
    user: User
    project: Project
    build: Build


@contextmanager
def orm(known: Known) -> Iterator[Mapping[str, Callable[[], object]]]:
    """Yield the operations by the names of our operations. Raises MissingPeer."""
    needs_module("sqlalchemy", "sqlalchemy")
    import jwt
    from sqlalchemy import create_engine, select, text
    from sqlalchemy.dialects import postgresql as pg
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        type_annotation_map = {  # noqa: RUF012  # as in SQLAlchemy's documentation
            datetime: pg.TIMESTAMP(timezone=True), dict[str, Any]: pg.JSONB, bytes: pg.BYTEA,
        }  # fmt: skip

    class UserRow(Base):
        __tablename__ = "users"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        email: Mapped[str]
        name: Mapped[str]
        plan: Mapped[str]
        email_verified: Mapped[bool]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]

    class Owned(Base):
        __abstract__ = True
        user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)

    class ProjectRow(Owned):
        __tablename__ = "projects"
        session_id: Mapped[str]
        name: Mapped[str]
        path: Mapped[str]
        status: Mapped[str]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]

    class BuildRow(Owned):
        __tablename__ = "builds"
        project_id: Mapped[uuid.UUID]
        status: Mapped[str]
        container_id: Mapped[str | None]
        image_id: Mapped[str | None]
        error_message: Mapped[str | None]
        resource_usage: Mapped[dict[str, Any]]
        log_bytes: Mapped[int] = mapped_column(server_default="0")
        started_at: Mapped[datetime | None]
        finished_at: Mapped[datetime | None]
        created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    class Preview(Owned):
        __tablename__ = "previews"
        project_id: Mapped[uuid.UUID]
        host: Mapped[str]
        host_port: Mapped[int | None]
        container_port: Mapped[int | None]
        container_id: Mapped[str | None]
        network_id: Mapped[str | None]
        health_status: Mapped[str]
        resource_limits: Mapped[dict[str, Any]]
        auto_sleep: Mapped[bool]
        sleep_after_seconds: Mapped[int]
        status: Mapped[str]
        last_accessed_at: Mapped[datetime]
        stopped_at: Mapped[datetime | None]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]

    class SignedIn(Owned):
        __tablename__ = "sessions"
        token_hash: Mapped[bytes]
        expires_at: Mapped[datetime]
        is_active: Mapped[bool]
        user_agent: Mapped[str | None]
        created_at: Mapped[datetime]
        last_seen_at: Mapped[datetime]

    class Event(Owned):
        __tablename__ = "events"
        type: Mapped[str]
        project_id: Mapped[uuid.UUID | None]
        meta: Mapped[dict[str, Any]]

    user, project, build = known.user, known.project, known.build
    secret = known.keys.secret_of(known.keys.kid) or b""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(known.url, prepare_threshold=1))
    active = (
        select(Preview)
        .where(
            Preview.user_id == user.id, Preview.project_id == project.id, Preview.status.in_(["running", "sleeping"])
        )
        .order_by((Preview.status == "running").desc(), Preview.id.desc())
        .limit(1)
    )

    def get(model: type[Base], key: object) -> object:
        with Session(engine) as session:
            return session.get(model, key)

    def first(statement: Any) -> object:
        with Session(engine) as session:
            return session.scalars(statement).first()

    def verify() -> object:
        claims = jwt.decode(known.token, secret, algorithms=["HS256"], options={"require": ["sub", "jti", "exp"]})
        key = (uuid.UUID(claims["sub"]), uuid.UUID(claims["jti"]))
        with Session(engine) as session:
            found = session.get(SignedIn, key)
            if found is None or not found.is_active or found.expires_at <= datetime.now(UTC):
                raise PermissionError
            if found.token_hash != hashlib.sha256(known.token.encode()).digest():
                raise PermissionError
            return found

    def create() -> object:
        made = BuildRow(user_id=user.id, id=uuid.uuid4(), project_id=project.id, status="queued", resource_usage={})
        with Session(engine, expire_on_commit=False) as session:
            session.add(made)
            session.add(
                Event(
                    user_id=user.id,
                    id=uuid.uuid4(),
                    type="build.created",
                    project_id=project.id,
                    meta={"build": str(made.id)},
                )
            )
            session.commit()
            return made

    calls: dict[str, Callable[[], object]] = {
        "users.get": lambda: get(UserRow, user.id),
        "users.by_email": lambda: first(select(UserRow).where(UserRow.email == user.email)),
        "projects.get": lambda: get(ProjectRow, (user.id, project.id)),
        "projects.by_session": lambda: first(select(ProjectRow).where(ProjectRow.session_id == project.session_id)),
        "builds.get": lambda: get(BuildRow, (user.id, build.id)),
        "previews.active": lambda: first(active),
        "sessions.verify": verify,
        "builds.create": create,
    }
    try:
        yield calls
    finally:
        engine.dispose()
