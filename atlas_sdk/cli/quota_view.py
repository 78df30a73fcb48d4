"""Show a user's quota: bars on a terminal, else aligned lines."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import compress
from typing import TYPE_CHECKING, Final

from attrs import frozen

from atlas_sdk.cli import json_output
from atlas_sdk.cli.output import Output, ago, count, exact, plain, size

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Limits, OpenReservation, TopUp, Usage, User
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.results import Forecast, MemoryUsage

#: The most and the fewest cells of a bar. A shorter bar shows too little.
_CELLS: Final = 24
_CELLS_LEAST: Final = 8
#: A terminal that has fewer characters in a line shows times without the time until then.
_WIDE: Final = 100
#: The most reservations to show, the soonest to expire first.
_HOLDS: Final = 20
#: The colours, each with the per cent of the limit from which it is used.
_STYLES: Final = ((100, "bold red"), (80, "red"), (50, "yellow"), (0, "green"))


@frozen(kw_only=True)
class Gauge:
    """One dimension of a quota: used, held and limit."""

    name: str
    used: Decimal
    held: Decimal
    #: None is unlimited.
    limit: Decimal | None
    text: Callable[[Decimal], str]
    #: The time of the reset, or what the amounts count.
    remark: str = ""

    @property
    def percent(self) -> int | None:
        """The per cent of the limit that is taken, rounded down; None without a limit or with limit 0."""
        return None if not self.limit else int((self.used + self.held) * 100 / self.limit)

    @property
    def style(self) -> str:
        """The colour of the bar."""
        full = 100 if self.limit == 0 else 0
        return next(style for least, style in _STYLES if (full if self.percent is None else self.percent) >= least)

    def cells(self, width: int = _CELLS) -> tuple[int, int]:
        """Return the used and the held cells of a bar; any amount above 0 takes at least one."""
        if not self.limit:
            return (0, 0) if self.limit is None else (width, 0)
        used = min(int(self.used * width / self.limit) or int(self.used > 0), width)
        taken = min(int((self.used + self.held) * width / self.limit), width)
        return used, max(taken - used, int(self.held > 0 and used < width))

    def words(self) -> tuple[str, ...]:
        """Return the texts beside the bar, one for each column."""
        return (
            self.text(self.used),
            f"+ {self.text(self.held)} held" if self.held else "",
            "unlimited" if self.limit is None else f"of {self.text(self.limit)}",
            "" if self.percent is None else f"{self.percent} %",
            self.remark,
        )


def dollars(amount: Decimal) -> str:
    """Return an exact amount of dollars, with two decimals at least."""
    exponent = amount.normalize().as_tuple().exponent
    places = max(2, -exponent) if isinstance(exponent, int) else 2
    return f"${amount:,.{places}f}"


def _until(moment: datetime, *, out: Output) -> str:
    """Return a future time: local to the minute, on a wide terminal also the time until then."""
    now = datetime.now(UTC)
    wide = out.terminal and out.width >= _WIDE
    wait = f" (in {ago(now, moment).removesuffix(' ago')})" if wide and moment > now else ""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}{wait}"


def _gauges(usage: "Usage", memory: "MemoryUsage", *, out: Output) -> Iterator[Gauge]:
    """Yield a gauge for every dimension."""

    def gauge(name: str, used: Decimal | int, held: Decimal | int, limit: Decimal | int | None, remark: str) -> Gauge:
        text = {"cost": dollars, "memory": lambda amount: size(int(amount))}.get(name, lambda amount: f"{amount:,}")
        whole = None if limit is None else Decimal(limit)
        return Gauge(name=name, used=Decimal(used), held=Decimal(held), limit=whole, text=text, remark=remark)

    month = f"until {_until(usage.period_end, out=out)}"
    yield gauge("tokens", usage.tokens_used, usage.tokens_held, usage.tokens_limit, month)
    yield gauge("cost", usage.cost_used, usage.cost_held, usage.cost_limit, month)
    yield gauge("containers", usage.slots_held, 0, usage.slots_limit, "at the same time")
    hour = (usage.requests_last_hour, usage.requests_held, usage.requests_limit)
    yield gauge("requests", *hour, "in the last hour")
    yield gauge("builds", usage.builds_today, 0, usage.builds_limit, f"today, {usage.time_zone}")
    kind = "" if memory.limit is None else "hard limit" if memory.hard else "soft limit"
    yield gauge("memory", memory.bytes, 0, memory.limit, kind)


def _show_gauges(out: Output, shown: Sequence[Gauge]) -> None:
    """Print the gauges, with bars where colours are wanted and there is room."""
    rows = [(gauge.name, *gauge.words()) for gauge in shown]
    # Leave out empty columns: mostly nothing is held.
    filled = [any(column) for column in zip(*rows, strict=True)]
    rows = [tuple(compress(row, filled)) for row in rows]
    if not (out.terminal and out.colored):
        out.table(rows)
        return
    from rich.text import Text

    room = out.width - sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    width = min(_CELLS, room) if room >= _CELLS_LEAST else 0
    lines = []
    for gauge, row in zip(shown, rows, strict=True):
        styles = compress(("bold", "", "dim", "", gauge.style, "dim"), filled)
        name, *words = [Text(word, style=style) for word, style in zip(row, styles, strict=True)]
        used, held = gauge.cells(width)
        left = width - used - held
        bar = Text.assemble(("█" * used, gauge.style), ("▒" * held, gauge.style), ("░" * left, "bright_black"))
        lines.append([name, *([bar] if width else []), *words])
    out.grid(lines)


def of_grants(grants: "Sequence[TopUp]", *, out: Output) -> list[tuple[str, ...]]:
    """Return a row for every top-up: the amount that is left, and the expiry."""
    return [
        (
            "top-up",
            f"{grant.tokens - grant.tokens_burned:,} tokens" if grant.tokens else "",
            dollars(grant.cost - grant.cost_burned) if grant.cost else "",
            "never expires" if grant.expires_at is None else f"until {_until(grant.expires_at, out=out)}",
            plain(grant.reason),
        )
        for grant in grants
    ]


def _of_holds(holds: "Sequence[OpenReservation]", *, out: Output) -> list[tuple[str, ...]]:
    """Return a row for every reservation that is not settled."""
    return [
        (
            "block" if hold.leased else "running",
            plain(hold.holder) or hold.id.hex[:12],
            count(hold.slots, "container") if hold.slots else "",
            f"{hold.tokens:,} tokens" if hold.tokens else "",
            dollars(hold.cost) if hold.cost else "",
            out.when(hold.created_at),
            f"until {_until(hold.expires_at, out=out)}",
        )
        for hold in holds
    ]


def _of_forecast(forecast: "Forecast", *, out: Output) -> str:
    """Return a text that says when the month's limits are reached at the present rate."""
    if not (forecast.tokens_per_day or forecast.cost_per_day):
        rate = "nothing was used of late"
    else:
        cost = dollars(round(forecast.cost_per_day, 2))
        rate = f"at the present rate, {forecast.tokens_per_day:,} tokens and {cost} a day"
    first = forecast.runs_out_at
    if first is None:
        return f"forecast  {rate}: the month's limits last"
    name = "tokens" if first == forecast.tokens_run_out_at else "dollars"
    if first <= datetime.now(UTC):
        return f"forecast  {rate}: the month's {name} have run out"
    return f"forecast  {rate}: the month's {name} run out {_until(first, out=out)}"


def _text(value: object) -> str:
    return exact(value) if isinstance(value, Decimal) else str(value)


def show_limits(run: "Invocation", limits: "Limits") -> None:
    """Print the limits of a plan, one a line."""
    fields = json_output.of_limits(limits)
    run.out.details(
        fields,
        [(name.replace("_", " "), "unlimited" if value is None else _text(value)) for name, value in fields.items()],
    )


def show_quota(run: "Invocation", atlas: "Atlas", user: "User") -> str | None:
    """Print a user's quota; return the reason if a limit is reached."""
    usage = atlas.quotas.usage(user)
    memory = atlas.quotas.memory(user)
    forecast = atlas.quotas.forecast(user)
    now = datetime.now(UTC)
    # An expired top-up no longer counts; the next call closes it.
    grants = [
        grant
        for grant in atlas.quotas.grants(user)
        if grant.closed_at is None and (grant.expires_at is None or grant.expires_at > now)
    ]
    holds = atlas.quotas.reservations(user)
    checked = usage.check()
    if run.out.json:
        run.out.record(
            {
                "user": json_output.fields_of(user, "id email plan"),
                **json_output.of_usage(usage),
                "memory": json_output.of_memory(memory),
                "grants": [json_output.of_grant(grant) for grant in grants],
                "holds": [json_output.of_hold(hold) for hold in holds],
                "forecast": json_output.of_forecast(forecast),
                **json_output.fields_of(checked, "exceeded dimension reason"),
            }
        )
        return checked.reason
    by_hand = f", by hand: {', '.join(usage.overridden)}" if usage.overridden else ""
    run.out.line(f"{plain(user.email)}  plan {user.plan}{by_hand}")
    _show_gauges(run.out, list(_gauges(usage, memory, out=run.out)))
    run.out.table(of_grants(grants, out=run.out), styles=("green", "", "", "dim", "dim"))
    run.out.table(_of_holds(holds[:_HOLDS], out=run.out), styles=("cyan", "", "", "", "", "dim", "dim"))
    if usage.waiting:
        run.out.line(f"waiting   {count(usage.waiting, 'call')}, first come, first served")
    if len(holds) > _HOLDS:
        run.out.note(f"{len(holds) - _HOLDS:,} more are running; --json has all of them")
    run.out.line(_of_forecast(forecast, out=run.out))
    return checked.reason
