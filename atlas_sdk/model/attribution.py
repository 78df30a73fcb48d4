"""Attribution: the author of a version."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import in_, instance_of, optional

from atlas_sdk.text import cut

__all__ = ["Attribution", "attribution_of"]

_SOURCES = ("sdk", "cli", "watcher", "hook")


def _short(value: Any) -> Any:
    """Truncate a text that an agent or its hook gave: every version stores it, and every log shows it."""
    return cut(value) if isinstance(value, str) else value


@frozen(kw_only=True)
class Attribution:
    """The author of a version, as far as known; `log` and `blame` show it."""

    #: The program that took the snapshot: "sdk", "cli", "watcher" or "hook".
    source: str = field(default="sdk", validator=in_(_SOURCES))
    #: The operation that made the version: "restore", "undo", "redo", "checkpoint"; None for a plain snapshot.
    reason: str | None = field(default=None, converter=_short, validator=optional(instance_of(str)))
    #: The agent's tool, such as "Edit" or "Bash".
    tool: str | None = field(default=None, converter=_short, validator=optional(instance_of(str)))
    #: The agent's own session id.
    agent_session: str | None = field(default=None, converter=_short, validator=optional(instance_of(str)))
    #: The login name of the person or daemon that acts.
    login: str | None = field(default=None, converter=_short, validator=optional(instance_of(str)))

    def to_json(self) -> dict[str, str]:
        """Return the fields that are known, for a jsonb column."""
        known = (self.reason, self.tool, self.agent_session, self.login)
        names = ("reason", "tool", "agent_session", "login")
        return {"source": self.source} | {n: v for n, v in zip(names, known, strict=True) if v is not None}


def attribution_of(value: Any) -> Attribution:
    """Read a jsonb column; ignore keys that this version of the code does not know."""
    if isinstance(value, Attribution):
        return value
    names = {"source", "reason", "tool", "agent_session", "login"}
    known: Mapping[str, str] = {name: text for name, text in dict(value).items() if name in names}
    return Attribution(**known)
