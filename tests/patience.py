"""How long a test waits for what must come."""

#: Seconds. A wait ends as soon as its condition holds, so only a failure takes this long. On a busy machine too: beside
#: eight busy loops on two cores the slowest wait took 61 s.
PATIENCE_S = 300.0
