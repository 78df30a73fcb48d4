"""A race for every limit at once, with killed workers and a database server that crashes.

`python -m benchmarks.race_quotas --minutes 10 --processes 64 --seed 1`; exit code 0 when every limit held.

::

    __main__   the options, the report, the exit code
    race       starts the workers, kills, pauses and replaces them, crashes the server
    limits     small limits, that grow when they are reached
    worker     one process: jobs until it is told to stop
    jobs       the kinds of use: guards, streams, leases, slots, hits, and calls that are never settled
    journal    the workers' notes, which survive a kill
    naive      the pair "check, then update" on a separate table, in the same run
    watch      the invariants that must hold at every look at the counters
    verdict    the invariants that must hold at the end, checked with the workers' journals
    server     a server that crashes on request
    sabotage   bugs that are put into the product, to see that the race finds them
"""
