"""Quantities, gauges and dollars on the command line: reading and showing them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import click
import pytest

from atlas_sdk.cli.param_types import AMOUNT, COUNT, EXPIRY, MONEY, Limit, Size
from atlas_sdk.cli.quota_view import Gauge, dollars


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (AMOUNT, "0", 0),
        (AMOUNT, " 1,000 ", 1000),
        (AMOUNT, "1_000", 1000),
        (AMOUNT, "10M", 10_000_000),
        (AMOUNT, "1.5k", 1500),
        (AMOUNT, "2T", 2 * 10**12),
        (COUNT, "Unlimited", "unlimited"),
        (COUNT, "7", 7),
        (MONEY, "$2.50", Decimal("2.50")),
        (MONEY, "1.5k", Decimal(1500)),
        (Size(), "5", 5),
        (Size(), "5 B", 5),
        (Size(), "1KiB", 1024),
        (Size(), "1kb", 1000),
        (Size(), "1.5GiB", 3 * 2**29),
        (Limit(Size()), "unlimited", "unlimited"),
        (EXPIRY, "12h", timedelta(hours=12)),
        (EXPIRY, "4w", timedelta(weeks=4)),
        (EXPIRY, "2030-01-02T03:04:05+00:00", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_quantities_are_read(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (AMOUNT, "1.2345k"),
        (AMOUNT, "1.5"),
        (AMOUNT, ""),
        (AMOUNT, "10Mi"),
        (AMOUNT, "٣"),
        (MONEY, "-1"),
        (MONEY, "1e3"),
        (Size(), "1.5"),
        (Size(), "1M"),
        (EXPIRY, "0x5d"),
        (EXPIRY, "2026-13-01"),
    ],
)
def test_quantities_that_are_none_are_refused(kind, text):
    with pytest.raises(click.BadParameter, match="is not a"):
        kind.convert(text, None, None)


def gauge(used, held, limit):
    limit = None if limit is None else Decimal(limit)
    return Gauge(name="tokens", used=Decimal(used), held=Decimal(held), limit=limit, text=str)


@pytest.mark.parametrize(
    ("used", "held", "limit", "percent", "style", "cells"),
    [
        (0, 0, 100, 0, "green", (0, 0)),
        (1, 0, 1000, 0, "green", (1, 0)),
        (49, 0, 100, 49, "green", (11, 0)),
        (25, 25, 100, 50, "yellow", (6, 6)),
        (0, 1, 1000, 0, "green", (0, 1)),
        (80, 0, 100, 80, "red", (19, 0)),
        (99, 0, 100, 99, "red", (23, 0)),
        (100, 0, 100, 100, "bold red", (24, 0)),
        (300, 50, 100, 350, "bold red", (24, 0)),
        (0, 0, 0, None, "bold red", (24, 0)),
        (5, 5, None, None, "green", (0, 0)),
    ],
)
def test_a_gauge_is_never_longer_than_its_bar(used, held, limit, percent, style, cells):
    found = gauge(used, held, limit)
    assert (found.percent, found.style, found.cells()) == (percent, style, cells)


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("1E+3", "$1,000.00"), ("0.500000000", "$0.50"), ("0.000000001", "$0.000000001")],
)
def test_dollars_are_exact(amount, text):
    assert dollars(Decimal(amount)) == text
