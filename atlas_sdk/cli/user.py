"""`atlasctl user`: the users of a database."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from atlas_sdk import NotFound
from atlas_sdk.cli.command import UTF8, command_group, yes_option
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of, of_user
from atlas_sdk.cli.output import count, plain

if TYPE_CHECKING:
    from atlas_sdk import Atlas, User

_PAGE_ROWS = 500
#: The kinds of rows that are deleted with a user, by the library's names.
_BELONGINGS = "projects memory_snapshots builds previews sessions usage_entries"


@command_group
def user() -> None:
    """Create, list, change and delete users.

    Every project, version, sign-in and limit belongs to a user. On your own machine there is one user for your login,
    which `atlasctl init` creates. A platform has many users.
    """


@user.command(
    examples=(
        "atlasctl user create bob@example.com",
        "atlasctl user create eve@example.com --name Eve --plan pro --json",
    )
)
@click.argument("email", type=UTF8)
@click.option("--name", default="", type=UTF8, help="What to call the user.")
@click.option("--plan", default="free", show_default=True, type=UTF8, help="The plan that sets the limits.")
@pass_run_anywhere
def create(run: Invocation, email: str, name: str, plan: str) -> None:
    """Create a user.

    EMAIL is unique in the database, in lower case. The user has no password until `atlasctl user password` sets one.
    Exits with 1 when the address is taken.
    """
    with run.opened() as atlas:
        made = atlas.users.create(email, name=name, plan=plan)
    _print(run, made, "created")


@user.command("list", examples=("atlasctl user list", "atlasctl user list --limit 10 --json"))
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="Users at most.")
@click.option("--all", "everything", is_flag=True, help="Every user.")
@pass_run_anywhere
def list_users(run: Invocation, limit: int, *, everything: bool) -> None:
    """List users, the oldest first.

    A line has the address, the plan, the name and the time of creation. With --json, each line is one object.
    """
    with run.opened() as atlas:
        # Read one more than is shown, to know if there are more.
        found = list(islice(_every(atlas), None if everything else limit + 1))
    shown = found if everything else found[:limit]
    run.out.listing(
        shown,
        of_user,
        lambda one: (plain(one.email), plain(one.plan), plain(one.name), run.out.when(one.created_at)),
        styles=("bold", "", "", "dim"),
    )
    if not shown:
        run.out.note("no users yet; atlasctl user create EMAIL makes one")
    elif len(shown) < len(found):
        run.out.note(f"the oldest {limit}; --limit or --all shows more")


def _every(atlas: "Atlas") -> "Iterator[User]":
    page: list[User] = []
    while True:
        page = atlas.users.list(after=page[-1] if page else None, limit=_PAGE_ROWS)
        yield from page
        if len(page) < _PAGE_ROWS:
            return


@user.command(examples=("atlasctl user show", "atlasctl user show ada@example.com --json"))
@click.argument("email", required=False, type=UTF8)
@pass_run_anywhere
def show(run: Invocation, email: str | None) -> None:
    """Show a user at a glance.

    Shows the plan, projects, previews, builds, and the usage of the present month. Without EMAIL, shows you. `atlasctl
    quota show` has every limit. Exits with 3 if no user has the address.
    """
    from atlas_sdk.cli.quota_view import dollars

    with run.opened() as atlas:
        found = run.user(atlas, email)
        summary = atlas.users.usage_summary(found)
    tokens = "unlimited" if summary.tokens_limit is None else f"of {summary.tokens_limit:,}"
    cost = "unlimited" if summary.cost_limit is None else f"of {dollars(summary.cost_limit)}"
    names = (
        "tokens_used tokens_limit cost_used cost_limit projects active_previews builds_24h builds_7d last_activity_at"
    )
    run.out.details(
        {**of_user(found), **fields_of(summary, names, projects=summary.project_count)},
        [
            ("email", plain(found.email) + (", verified" if found.email_verified else "")),
            ("name", plain(found.name)),
            ("id", str(found.id)),
            ("plan", plain(found.plan)),
            ("password", "none" if found.password_changed_at is None else "set"),
            ("created", run.out.when(found.created_at)),
            ("last active", run.out.when(summary.last_activity_at)),
            ("projects", f"{summary.project_count:,}"),
            ("previews", f"{summary.active_previews:,}"),
            ("builds", f"{summary.builds_24h:,} in 24 h, {summary.builds_7d:,} in 7 days"),
            ("tokens", f"{summary.tokens_used:,} {tokens}"),
            ("cost", f"{dollars(summary.cost_used)} {cost}"),
        ],
    )


@user.command(
    "set",
    examples=(
        "atlasctl user set ada@example.com --plan pro",
        "atlasctl user set ada@example.com --name Ada --verified",
    ),
)
@click.argument("email", type=UTF8)
@click.option("--plan", type=UTF8, help="Move the user to this plan; `atlasctl plans list` has them.")
@click.option("--name", type=UTF8, help="What to call the user.")
@click.option("--verified", is_flag=True, help="Note that the address is the user's own.")
@pass_run_anywhere
def set_user(run: Invocation, email: str, plan: str | None, name: str | None, *, verified: bool) -> None:
    """Change a user's plan or name.

    Options that are not given change nothing. If one change fails, none is made. The amounts used so far stay, and so
    do limits that were set by hand.
    """
    if plan is None and name is None and not verified:
        raise click.UsageError("nothing to set: give --plan, --name or --verified")
    with run.opened() as atlas:
        found = run.user(atlas, email)
        with atlas.transaction() as tx:
            if plan is not None:
                found = tx.users.set_plan(found, plan)
            if name is not None:
                found = tx.users.update(found, name=name)
            if verified:
                found = tx.users.verify_email(found)
    _print(run, found, "changed")


@user.command(
    examples=(
        "atlasctl user password ada@example.com",
        "atlasctl user password ada@example.com --json < new-password.txt",
    )
)
@click.argument("email", type=UTF8)
@pass_run_anywhere
def password(run: Invocation, email: str) -> None:
    """Set a user's password, and end every sign-in of the user.

    On a terminal the command asks for the password twice and does not show it. Otherwise it reads the first line of
    standard input. The password has at least 8 characters. Needs the extra "auth".
    """
    with run.opened() as atlas:
        found = run.user(atlas, email)
        ended = atlas.users.set_password(found, _typed(found.email))
        found = atlas.users.get(found.id)
    told = f"{plain(found.email)} has a new password; {count(ended, 'sign-in')} ended"
    run.out.result({**of_user(found), "sessions_revoked": ended}, told)


def _typed(email: str) -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        asked: str = click.prompt(f"New password of {email}", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    line = "" if sys.stdin is None else sys.stdin.readline().removesuffix("\n")
    if not line:
        raise click.UsageError("no password: give it as the first line of standard input, or use a terminal")
    return line


@user.command(examples=("atlasctl user delete ada@example.com", "atlasctl user delete bob@example.com --yes --json"))
@click.argument("email", type=UTF8)
@yes_option
@pass_run_anywhere
def delete(run: Invocation, email: str, *, yes: bool) -> None:
    """Delete a user for good, with everything that is the user's.

    Projects, every version of their memory, builds, previews, sign-ins, limits and the usage ledger are deleted; the
    files in the project folders stay, and so does the audit trail. Asks first.
    """
    with run.opened() as atlas:
        found = run.user(atlas, email)
        projects = atlas.projects.list(found, status=None)
        run.confirm(
            f"Delete {plain(found.email)} for good, with {count(len(projects), 'project')} and every version in them?",
            yes=yes,
        )
        gone = atlas.users.delete(found)
    if gone is None:
        raise NotFound(f"{found.email} is deleted already", kind="user", name=found.email)
    parts = f"{count(gone.projects, 'project')} and {count(gone.memory_snapshots, 'version')}"
    run.out.result(
        {"user": of_user(found), "deleted": fields_of(gone, _BELONGINGS)},
        f"{plain(found.email)} is deleted, with {parts}",
    )


def _print(run: Invocation, found: "User", verb: str) -> None:
    name = f" ({plain(found.name)})" if found.name else ""
    run.out.result(of_user(found), f"{verb}: {plain(found.email)}{name}, plan {plain(found.plan)}, id {found.id}")
