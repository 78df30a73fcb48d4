"""The rights of a login."""

from attrs import frozen

__all__ = ["Login"]


@frozen(kw_only=True)
class Login:
    """The relation of a client's login to the tables."""

    #: Row-level security applies to it: it sees nothing but as a user.
    row_security_applies: bool
    #: It may act as the role `atlas_app`, and that exists.
    may_act_as_user: bool
