"""The definitions of functions, policies and views in the migrations, to compare with a server."""

import re
from functools import cache

from attrs import frozen

from atlas_sdk.provision.script import expected

__all__ = ["FunctionRights", "PolicyRule", "function_rights", "invoker_views", "policy_rules", "same_rule"]

_DIRECT = re.compile(
    r"'ALTER FUNCTION (?P<name>\w+)\([^)]*\)(?P<definer> SECURITY DEFINER)? SET search_path = %I, pg_temp'"
)
_LOOPED = re.compile(r"'ALTER FUNCTION %s(?P<definer> SECURITY DEFINER)? SET search_path = %I, pg_temp'")
_SIGNATURE = re.compile(r"'(?P<name>\w+)\([^)']*\)'")
_POLICY = re.compile(
    r"CREATE POLICY .*? ON \S+(?: AS PERMISSIVE)?(?: FOR (?P<command>\w+))?"
    r"(?: USING \((?P<using>.*?)\))?(?: WITH CHECK \((?P<check>.*)\))?$"
)
#: What a server adds to an expression or takes away when it shows it: types, brackets, space.
_FORM = re.compile(r"::\w+|[\s()]")


@frozen
class FunctionRights:
    """With whose rights a function runs, and where it looks for tables."""

    #: With its owner's.
    is_definer: bool = False
    #: In the schema and then among temporary tables, so that nobody can put a table of the same name before ours; else
    #: where its caller does. Migrations run with that search_path, which is what FROM CURRENT keeps.
    is_pinned: bool = False


@frozen
class PolicyRule:
    """Which rows a policy lets through, in the words of a migration or of a server."""

    #: "ALL", "SELECT", "INSERT", "UPDATE", "DELETE".
    command: str
    using: str | None
    check: str | None


@cache
def function_rights() -> dict[str, FunctionRights]:
    """Return them by the name of the function; a test compares them with a server."""
    catalogue = expected()
    heads = {thing.name: thing.text.partition("$$")[0] for thing in catalogue.things if thing.kind == "function"}
    found = {
        name: FunctionRights(is_definer="SECURITY DEFINER" in head, is_pinned="SET search_path FROM CURRENT" in head)
        for name, head in heads.items()
    }
    for command in catalogue.settings:
        altered = [(one["name"], one) for one in _DIRECT.finditer(command)]
        altered += [(name, one) for one in _LOOPED.finditer(command) for name in _SIGNATURE.findall(command)]
        for name, one in altered:
            found[name] = FunctionRights(is_definer=one["definer"] is not None, is_pinned=True)
    return found


@cache
def policy_rules() -> dict[tuple[str, str | None], PolicyRule]:
    """Return them by the names of the policy and of its table."""
    rules = {}
    for key, thing in expected().of("policy").items():
        said = _POLICY.match(thing.text)
        assert said is not None, thing.text  # noqa: S101  # a test reads every one
        rules[key] = PolicyRule(said["command"] or "ALL", said["using"], said["check"])
    return rules


def same_rule(one: PolicyRule, other: PolicyRule) -> bool:
    """Tell whether two rules are the same but for the form in which a server shows them."""
    return _bare(one) == _bare(other)


def _bare(rule: PolicyRule) -> tuple[str, str, str]:
    using, check = (_FORM.sub("", text or "").lower() for text in (rule.using, rule.check))
    return rule.command, using, check


@cache
def invoker_views() -> frozenset[str]:
    """Return the views that show a reader only what the reader's own policies let through."""
    return frozenset(
        name for (name, _), thing in expected().of("view").items() if re.search(r"security_invoker = true", thing.text)
    )
