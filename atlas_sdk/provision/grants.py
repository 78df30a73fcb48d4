"""The grants of `grant_atlas_roles()` to a tenant's role, read from its migration."""

import re
from functools import cache

from atlas_sdk.provision.script import expected

__all__ = ["tenant_privileges", "tenant_rights"]

#: Texts that stand one after the other on several lines are one text.
_JOINT = re.compile(r"'\s*\n\s*'")
_GRANT = re.compile(r"'(?P<what>(?:SELECT|INSERT|UPDATE|DELETE)\b[^']*?) ON (?P<tables>[\w, ]+)'")
_VERB = re.compile(r"(?P<verb>SELECT|INSERT|UPDATE|DELETE)(?: \((?P<columns>[^)]*)\))?")


@cache
def tenant_rights() -> dict[tuple[str, str], frozenset[str] | None]:
    """Return the columns of each pair of a table or view and "SELECT", "INSERT", "UPDATE" or "DELETE"; None: all.

    A test compares them with what the function gives.
    """
    return {
        (table.strip(), found["verb"]): _columns(found["columns"])
        for grant in _GRANT.finditer(_JOINT.sub("", _giving()))
        for table in grant["tables"].split(",")
        for found in _VERB.finditer(grant["what"])
    }


def _giving() -> str:
    (giving,) = (thing for (name, _), thing in expected().of("function").items() if name == "grant_atlas_roles")
    return giving.text


def _columns(listed: str | None) -> frozenset[str] | None:
    return None if listed is None else frozenset(name.strip() for name in listed.split(","))


def tenant_privileges() -> frozenset[tuple[str, str]]:
    """Return the pairs of `tenant_rights`."""
    return frozenset(tenant_rights())
