"""What a login may do."""

from attrs import frozen

__all__ = ["Login"]


@frozen(kw_only=True)
class Login:
    """What the login of a client is to the tables."""

    #: Row-level security applies to it: it sees nothing but as a user.
    walled: bool
    #: It may act as the role `atlas_app`, and that exists.
    may_act_as_user: bool
