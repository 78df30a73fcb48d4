"""Benchmarks of AtlasEngine and its peers, in one interleaved run on one machine: `make bench`.

::

    __main__    the options, the sections in order, the exit code
    histories   edit histories to store: real ones if there are any, else generated ones
    bench       a temporary home, with a server that is stopped and removed afterwards
    peers       the ways in which other programs keep a version
    orm         the same operations through an ORM
    timing      percentiles, and turns in which each contender does one operation
    slices      many client processes, which run one contender at a time
    table       rows, targets, PASS and FAIL

    space  puts  unchanged  reads  race  startup  bulk      the sections, one file each
    quota_pairs  quota_leases  quota_rates
    operations  growth

    race_quotas  not a section: a program that races for every limit while processes and servers are killed
"""
