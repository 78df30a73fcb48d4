"""The login name of this process, and ids that it makes."""

import getpass
import sys

# A uuid v7: later ids sort after earlier ids.
if sys.version_info >= (3, 14):
    from uuid import uuid7 as new_id
else:
    from uuid_utils.compat import uuid7 as new_id

__all__ = ["login_name", "new_id"]


def login_name() -> str | None:
    """Return the login name of this process; None for a user id without a name, which a container may have."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None
