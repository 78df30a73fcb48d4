"""What `grant_atlas_roles()` gives to whoever acts for a tenant, read from the migration that has it."""

import re
from functools import cache

from atlas_sdk.provision.script import expected

__all__ = ["tenant_privileges"]

#: Texts that stand one after the other on several lines are one text.
_JOINT = re.compile(r"'\s*\n\s*'")
_GRANT = re.compile(r"'(?P<what>(?:SELECT|INSERT|UPDATE|DELETE)\b[^']*?) ON (?P<tables>[\w, ]+)'")
_VERB = re.compile(r"SELECT|INSERT|UPDATE|DELETE")


@cache
def tenant_privileges() -> frozenset[tuple[str, str]]:
    """Return pairs of a table or view and "SELECT", "INSERT", "UPDATE" or "DELETE", if only for some of its columns.

    A test compares them with what the function gives.
    """
    (giving,) = (thing for (name, _), thing in expected().of("function").items() if name == "grant_atlas_roles")
    return frozenset(
        (table.strip(), verb)
        for grant in _GRANT.finditer(_JOINT.sub("", giving.text))
        for table in grant["tables"].split(",")
        for verb in _VERB.findall(grant["what"])
    )
