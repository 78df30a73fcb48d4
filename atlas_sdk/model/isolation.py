"""The rights of a login."""

from attrs import frozen

__all__ = ["Login"]


@frozen(kw_only=True)
class Login:
    """The rights of a client's login on the tables."""

    #: True when row-level security applies to the login. The login then sees rows only when it acts as a user.
    row_security_applies: bool
    #: True when the role `atlas_app` exists and the login may act as it.
    may_act_as_user: bool
