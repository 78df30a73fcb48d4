"""Projects: folders whose memory files are kept."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text

__all__ = ["Project"]


@frozen(kw_only=True)
class Project:
    """A folder whose memory files are kept."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: Unique in the database: the name that the outside knows the project by.
    session_id: str = field(repr=False)
    name: str
    #: Absolute, symlinks resolved, as `os.fsdecode` gives it.
    path: str = field(converter=from_text)
    status: str = field(validator=in_(("active", "archived", "deleted")))
    created_at: datetime = field(repr=False)
    updated_at: datetime = field(repr=False)
