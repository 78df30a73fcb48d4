"""The result of a delivery of the journal."""

from attrs import frozen

__all__ = ["Delivery"]


@frozen(kw_only=True)
class Delivery:
    """The result of delivering records of the journal to the database."""

    #: Records that are in the database now, and no longer in the journal.
    delivered: int = 0
    #: Records that are still in the journal.
    remaining: int = 0
    #: One sentence for each record that the database did not take as it was.
    problems: tuple[str, ...] = ()
