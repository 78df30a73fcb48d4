"""The space that memory contents take in the database."""

from attrs import field, frozen

__all__ = ["LEVELS", "MemoryUsage"]

#: Thresholds that are reported, in per cent of the limit.
LEVELS = (80, 100)


@frozen(kw_only=True)
class MemoryUsage:
    """The stored size of a user's contents: deltas and keyframes, each content counted once."""

    bytes: int
    #: None is unlimited.
    limit: int | None
    #: True: new content above the limit is refused. False: an event reports it.
    hard: bool
    #: The highest threshold (0, 80 or 100 per cent) that events have reported since the size was last below it.
    told: int = field(default=0, repr=False)

    @property
    def exceeded(self) -> bool:
        """True when the size exceeds the limit."""
        return self.limit is not None and self.bytes > self.limit

    @property
    def level(self) -> int:
        """The highest threshold (0, 80 or 100 per cent) that the size has reached."""
        if self.limit is None or not self.bytes:
            return 0
        return max((level for level in LEVELS if self.bytes * 100 >= self.limit * level), default=0)

    @property
    def remaining(self) -> int | None:
        """The remaining bytes below the limit; None is unlimited."""
        return None if self.limit is None else max(self.limit - self.bytes, 0)
