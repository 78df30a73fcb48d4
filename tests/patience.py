"""The longest time for which a test waits."""

#: Seconds. A wait ends as soon as its condition holds, so only a failure takes this long. On two cores with eight busy
#: loops the slowest wait took 61 s.
PATIENCE_S = 300.0
