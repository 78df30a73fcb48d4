"""`atlasctl sessions`: the sign-ins of a user."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk.cli.command import command_group, user_option
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import of_session
from atlas_sdk.cli.output import count, plain
from atlas_sdk.cli.param_types import EXPIRY
from atlas_sdk.text import quoted

if TYPE_CHECKING:
    from atlas_sdk import Session

#: The most sessions to read: the largest page of `sessions.list`, and the limit of the enterprise plan.
_MOST = 10_000


@command_group
def sessions() -> None:
    """List, issue and revoke the sign-ins of a user.

    A session is one sign-in, valid until it expires or is revoked. Its token is shown once, when it is issued, and is
    stored nowhere. Needs the extra "auth", and on a server signing keys.
    """


@sessions.command("list", examples=("atlasctl sessions list", "atlasctl sessions list --user ada@example.com --json"))
@user_option
@pass_run_anywhere
def list_sessions(run: Invocation, email: str | None) -> None:
    """List the sessions that are valid now, the newest first.

    A line has the beginning of the id, when it was issued, when it was last used, when it expires, and the address and
    the program that it was issued to.
    """
    with run.opened() as atlas:
        found = atlas.sessions.list(run.user(atlas, email), limit=_MOST)
    run.out.listing(
        found,
        of_session,
        lambda one: (
            _short(one),
            f"issued {run.out.when(one.created_at)}",
            f"used {run.out.when(one.last_seen_at)}",
            f"until {_minute(one.expires_at)}",
            one.ip or "",
            plain(one.user_agent or ""),
        ),
        styles=("yellow", "dim", "dim", "", "", "dim"),
    )
    if not found:
        run.out.note("nobody is signed in")


@sessions.command(
    examples=("atlasctl sessions issue --expires 12h", "atlasctl sessions issue --user ada@example.com --json")
)
@user_option
@click.option("--expires", type=EXPIRY, metavar="WHEN", help="12h, 30d, 4w, or the last day.  [default: 30d]")
@pass_run_anywhere
def issue(run: Invocation, email: str | None, expires: timedelta | datetime | None) -> None:
    """Sign a user in, and print the token.

    The token goes to stdout, and cannot be shown again: give it to the client, and keep it out of logs. At most 400
    days.
    """
    with run.opened() as atlas:
        user = run.user(atlas, email)
        wait = expires - datetime.now(UTC) if isinstance(expires, datetime) else expires
        issued = atlas.sessions.issue(user) if wait is None else atlas.sessions.issue(user, ttl=wait)
    run.out.result({**of_session(issued.session), "token": issued.token}, issued.token)
    run.out.note(
        f"the token of {plain(user.email)}, shown only now; the session {_short(issued.session)} is valid until "
        f"{_minute(issued.session.expires_at)}"
    )


@sessions.command(
    examples=("atlasctl sessions revoke --all", "atlasctl sessions revoke --all --user ada@example.com --json")
)
@click.argument("session_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every session of the user.")
@user_option
@pass_run_anywhere
def revoke(run: Invocation, session_id: str | None, email: str | None, *, everything: bool) -> None:
    """End a session, or all of a user's.

    At once and for good: the next request with its token is refused. ID is the beginning of the id, as
    `atlasctl sessions list` shows it. Exits with 3 when no valid session has the id.
    """
    if everything == (session_id is not None):
        raise click.UsageError("give the ID of a session, or --all")
    with run.opened() as atlas:
        user = run.user(atlas, email)
        if session_id is None:
            ended = atlas.sessions.revoke_all(user)
        else:
            ended = int(atlas.sessions.revoke(_find(atlas.sessions.list(user, limit=_MOST), session_id)) is not None)
    run.out.result({"revoked": ended}, f"{count(ended, 'session')} ended")


def _find(found: "list[Session]", given: str) -> "Session":
    digits = given.replace("-", "").lower()
    fitting = [one for one in found if digits and one.id.hex.startswith(digits)]
    if len(fitting) > 1:
        raise InvalidInput(f"{quoted(given)} fits {len(fitting)} sessions; give more of the id", field="session_id")
    if not fitting:
        raise NotFound(f"no valid session of this user has the id {quoted(given)}", kind="session", name=given)
    return fitting[0]


def _short(session: "Session") -> str:
    return session.id.hex[:12]


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
