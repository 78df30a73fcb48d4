"""The origin of a request, for the audit trail."""

from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from attrs import evolve, field, frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = ["Address", "Origin"]

#: An IP address as a text or as an object of the standard library.
Address = str | IPv4Address | IPv6Address

#: The length of the column.
_AGENT_LENGTH = 1024


def _ip(value: Address | None) -> str | None:
    if value is None:
        return None
    try:
        # Drop a zone ("%eth0"): it has a meaning on one machine only, and the type inet cannot store it.
        address = ip_address(value.partition("%")[0] if isinstance(value, str) else value)
    except (AddressValueError, ValueError) as exc:
        raise InvalidInput(
            f"{quoted(value)} is not an IP address: give it without port and netmask", field="ip"
        ) from exc
    # A socket for both versions shows the IPv4 address 10.0.0.1 as ::ffff:10.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address).partition("%")[0]


def _ip_or_none(value: Address) -> str | None:
    try:
        return _ip(value)
    except InvalidInput:
        return None


def _agent(value: str | None) -> str | None:
    """Truncate a User-Agent; never refuse it, because it is untrusted input."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"user_agent is a text, not {quoted(value)}", field="user_agent")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value[:_AGENT_LENGTH])


@frozen(kw_only=True)
class Origin:
    """The origin of a request, as far as known."""

    ip: str | None = field(default=None, converter=_ip)
    #: Truncated to 1,024 characters.
    user_agent: str | None = field(default=None, converter=_agent)

    def but(self, *, ip: Address | None = None, user_agent: str | None = None, strict: bool = True) -> "Origin":
        """Return a copy of this origin with the given fields replaced; None leaves a field as it is.

        With `strict=False`, an `ip` that is not an IP address leaves the copy without one.
        """
        known = ip if ip is None or strict else _ip_or_none(ip)
        return evolve(
            self,
            ip=self.ip if ip is None else known,
            user_agent=self.user_agent if user_agent is None else user_agent,
        )
