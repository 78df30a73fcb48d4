"""The origin of a request, as a web framework tells it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from atlas_sdk import InvalidInput
from atlas_sdk.model.origin import Origin


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:a00:1", "10.0.0.1"),
        ("::ffff:10.0.0.1%eth0", "10.0.0.1"),
        (ip_address("::ffff:10.0.0.1"), "10.0.0.1"),
        ("::10.0.0.1", "::a00:1"),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
        ("fe80::1%eth0", "fe80::1"),
        (ip_address("fe80::1%eth0"), "fe80::1"),
    ],
)
def test_one_address_has_one_form(given: Any, kept: str) -> None:
    assert Origin(ip=given).ip == kept
    assert Origin().but(ip=given, strict=False).ip == kept


@pytest.mark.parametrize("given", ["testclient", "unknown", "", "/run/app.sock", "10.0.0.1:80", "10.0.0.0/8"])
def test_a_text_that_is_no_address_is_refused_or_left_out(given: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Origin().but(ip=given)
    assert refused.value.field == "ip"
    # The address of an earlier request must not stay.
    before = Origin(ip="203.0.113.9", user_agent="Firefox")
    assert before.but(ip=given, strict=False) == Origin(user_agent="Firefox")


def test_fields_that_are_not_given_stay() -> None:
    before = Origin(ip="203.0.113.9", user_agent="Firefox")
    assert before.but(strict=False) == before
    assert before.but(user_agent="curl/8", strict=False) == Origin(ip="203.0.113.9", user_agent="curl/8")
