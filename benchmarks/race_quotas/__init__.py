"""A race for every limit at once, with killed workers and a database server that crashes.

`python -m benchmarks.race_quotas --minutes 10 --processes 64 --seed 1`; exit code 0 when every limit held.

::

    __main__   the options, the report, the exit code
    race       starts the workers, kills, pauses and replaces them, crashes the server
    limits     small limits, that grow when they are reached
    worker     one process: jobs until it is told to stop
    jobs       the kinds of use: guards, streams, leases, slots, hits, and what nobody settles
    journal    what workers know, kept where a kill does not reach it
    naive      the pair "check, then update" on a table of its own, in the same run
    watch      what has to be so at every look at the counters
    verdict    what has to be so in the end, with the workers' journals as witnesses
    server     a server that crashes when it is told to
    sabotage   the product broken on purpose, to see that the race finds it
"""
