"""The methods of maintenance that run all jobs: faces over scripts."""

from collections.abc import Iterable
from datetime import timedelta
from typing import TypedDict, Unpack

from atlas_sdk._namespaces import AsyncNamespace, Namespace
from atlas_sdk._script import run_script, run_script_async
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.ops import isolation, maintenance
from atlas_sdk.ops.batches import Progress

__all__ = ["AsyncMaintaining", "Keeping", "Maintaining", "Wishes"]


class Keeping(TypedDict, total=False):
    """The retention of each kind of data, None for ever, and the size of the steps."""

    #: Versions of kind "auto", but the newest of each file; default 30 days.
    keep_auto: timedelta | None
    #: Default 7 days.
    keep_stopped_previews: timedelta | None
    #: The audit trail; default 365 days.
    keep_events: timedelta | None
    #: Rows of one transaction, about; default 5,000.
    batch: int
    #: Called after each transaction, with asyncio in a thread; when it returns False the run ends there.
    progress: Progress | None


class Wishes(Keeping, total=False):
    """The options of `run`."""

    #: Count only; default False.
    dry_run: bool


class Maintaining(Namespace):
    """All jobs, one after the other."""

    def run(self, jobs: Iterable[str] | None = None, **wishes: Unpack[Wishes]) -> list[JobReport]:
        """Do these jobs of maintenance, or all, of all users; return a report of each, in the order of the jobs.

        The wishes are those of `Wishes`. Every job goes in short transactions, beside the traffic and beside other
        runs; it can be repeated at any time, and ends in one event, "maintenance.<job>". A job that fails does not keep
        the others from being done: look at `problem`. Raises InvalidInput, NotPermitted for a login that does not see
        all rows, and DatabaseUnreachable when the database goes away.
        """
        self._runner.run(isolation.check_sees_all("maintenance"))
        return run_script(self._runner, maintenance.run(jobs, **wishes))

    def run_if_due(
        self, *, every: timedelta = maintenance.EVERY, retry: timedelta = maintenance.RETRY, **keeping: Unpack[Keeping]
    ) -> list[JobReport] | None:
        """Do all jobs as `run`, unless somebody did within `every`, failed within `retry`, or is at it; None then.

        Any number of processes may ask at once: one of them runs. A run of all jobs by `run` counts as well.
        """
        self._runner.run(isolation.check_sees_all("maintenance"))
        return run_script(self._runner, maintenance.run_if_due(every=every, retry=retry, **keeping))


class AsyncMaintaining(AsyncNamespace):
    """All jobs, one after the other."""

    async def run(self, jobs: Iterable[str] | None = None, **wishes: Unpack[Wishes]) -> list[JobReport]:
        """Do these jobs of maintenance, or all, of all users; return a report of each, in the order of the jobs.

        The wishes are those of `Wishes`. Every job goes in short transactions, beside the traffic and beside other
        runs; it can be repeated at any time, and ends in one event, "maintenance.<job>". A job that fails does not keep
        the others from being done: look at `problem`. Raises InvalidInput, NotPermitted for a login that does not see
        all rows, and DatabaseUnreachable when the database goes away.
        """
        await self._runner.run(isolation.check_sees_all("maintenance"))
        return await run_script_async(self._runner, maintenance.run(jobs, **wishes))

    async def run_if_due(
        self, *, every: timedelta = maintenance.EVERY, retry: timedelta = maintenance.RETRY, **keeping: Unpack[Keeping]
    ) -> list[JobReport] | None:
        """Do all jobs as `run`, unless somebody did within `every`, failed within `retry`, or is at it; None then.

        Any number of processes may ask at once: one of them runs. A run of all jobs by `run` counts as well.
        """
        await self._runner.run(isolation.check_sees_all("maintenance"))
        return await run_script_async(self._runner, maintenance.run_if_due(every=every, retry=retry, **keeping))
