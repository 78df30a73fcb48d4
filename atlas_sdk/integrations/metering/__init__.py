"""The parts that the metered clients of all providers share.

::

    options     Metering, Meter: the options of `guarded`
    outcomes    CallOutcome: the ways in which a call can fail, with a policy for each
    endpoint    Endpoint, Plan, Tally: what differs between the endpoints of providers
    call        MeteredCall: the amounts to reserve before a call, and to charge after it
    attempts    Attempts: the HTTP attempts of one call
    streams     Watch, AsyncWatch: count the events of a stream and end its guard
    wrapping    guard_client: put a meter into a copy of a client
"""
