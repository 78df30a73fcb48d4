"""The maintenance methods that run all jobs."""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict, Unpack

from atlas_sdk._namespaces import AsyncNamespace, Namespace
from atlas_sdk._script import run_script, run_script_async
from atlas_sdk._signatures import without_methods
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.ops import isolation, maintenance
from atlas_sdk.ops.batches import Progress

__all__ = ["AsyncMaintaining", "Maintaining", "MaintenanceOptions", "RetentionOptions"]


class RetentionOptions(TypedDict, total=False):
    """The time for which each kind of data is kept (None means for ever), and the batches of deletions.

    keep_auto: timedelta; default 30 days
        Keep versions of kind "auto" for this time. The newest version of each file always stays.
    keep_stopped_previews: timedelta; default 7 days
        Keep stopped previews for this time.
    keep_events: timedelta; default 365 days
        Keep the audit trail for this time.
    batch: int; default 5,000
        About the number of rows in a transaction.
    progress: function; default none
        Called after each transaction (on asyncio in a thread). The run stops when it returns False.
    """

    keep_auto: timedelta | None
    keep_stopped_previews: timedelta | None
    keep_events: timedelta | None
    batch: int
    progress: Progress | None


class MaintenanceOptions(RetentionOptions, total=False):
    """The options of `run`: those of `RetentionOptions`, and one more.

    dry_run: bool; default False
        Count the rows and delete nothing.
    """

    dry_run: bool


if not TYPE_CHECKING:
    RetentionOptions, MaintenanceOptions = without_methods(RetentionOptions), without_methods(MaintenanceOptions)


class Maintaining(Namespace):
    """The methods that run all jobs, one after the other."""

    def run(self, jobs: Iterable[str] | None = None, **options: Unpack[MaintenanceOptions]) -> list[JobReport]:
        """Run these maintenance jobs, or all of them, for all users; return a report of each, in order.

        `MaintenanceOptions` lists the options. Each job works in short transactions, at the same time as the traffic
        and as other runs. A job can be repeated at any time, and logs one event at its end, "maintenance.<job>". A job
        that fails does not stop the others: its report says why in `problem`. Raises InvalidInput, NotPermitted for a
        login that does not see all rows, and DatabaseUnreachable when the database goes away.
        """
        self._runner.run(isolation.check_sees_all("maintenance"))
        return run_script(self._runner, maintenance.run(jobs, **options))

    def run_if_due(
        self,
        *,
        every: timedelta = maintenance.EVERY,
        retry: timedelta = maintenance.RETRY,
        **options: Unpack[RetentionOptions],
    ) -> list[JobReport] | None:
        """Run all jobs if they are due; return None if they are not.

        They are not due while a run is under way, within `every` after a run that ended well, and within `retry` after
        one that failed. A `run` of all jobs counts too. Any number of processes may call this at once: only one of them
        runs the jobs.
        """
        self._runner.run(isolation.check_sees_all("maintenance"))
        return run_script(self._runner, maintenance.run_if_due(every=every, retry=retry, **options))


class AsyncMaintaining(AsyncNamespace):
    """The methods that run all jobs, one after the other."""

    async def run(self, jobs: Iterable[str] | None = None, **options: Unpack[MaintenanceOptions]) -> list[JobReport]:
        """Run these maintenance jobs, or all of them, for all users; return a report of each, in order.

        `MaintenanceOptions` lists the options. Each job works in short transactions, at the same time as the traffic
        and as other runs. A job can be repeated at any time, and logs one event at its end, "maintenance.<job>". A job
        that fails does not stop the others: its report says why in `problem`. Raises InvalidInput, NotPermitted for a
        login that does not see all rows, and DatabaseUnreachable when the database goes away.
        """
        await self._runner.run(isolation.check_sees_all("maintenance"))
        return await run_script_async(self._runner, maintenance.run(jobs, **options))

    async def run_if_due(
        self,
        *,
        every: timedelta = maintenance.EVERY,
        retry: timedelta = maintenance.RETRY,
        **options: Unpack[RetentionOptions],
    ) -> list[JobReport] | None:
        """Run all jobs if they are due; return None if they are not.

        They are not due while a run is under way, within `every` after a run that ended well, and within `retry` after
        one that failed. A `run` of all jobs counts too. Any number of processes may call this at once: only one of them
        runs the jobs.
        """
        await self._runner.run(isolation.check_sees_all("maintenance"))
        return await run_script_async(self._runner, maintenance.run_if_due(every=every, retry=retry, **options))
