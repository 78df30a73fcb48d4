"""Us and our peers side by side, in one interleaved run on one machine: `make bench`.

::

    __main__    the options, the sections in order, the exit code
    histories   what is stored: real edit histories where they are, made ones elsewhere
    bench       a home of its own, with a server that is stopped and removed afterwards
    peers       what others do to keep a version
    orm         what others do with the same tables
    timing      percentiles, and one operation of each in turn
    slices      many client processes, and a slice of time of each in turn
    table       rows, targets, PASS and FAIL

    space  puts  unchanged  reads  race  startup  bulk      the sections, one file each
    quota_pairs  quota_leases  quota_rates
    operations  growth

    race_quotas  no section: a program that races for every limit while processes and servers are killed
"""
