"""Addresses are shown without their secrets, even if the secrets were not escaped as they must be."""

from __future__ import annotations

import re

import psycopg
import pytest

from atlas_sdk import InvalidInput
from atlas_sdk.dsn import check_dsn, masked, place, scrub, scrubbed

_SECRET = "s3cr"


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://ada:s3cr/et@db/atlas",
        "postgresql://ada:s3cr@et@db/atlas",
        "postgresql://ada:s3cr/e@t@db/atlas",
        "postgresql://ada:s3cr?et@db/atlas?user=a@b",
        "postgresql://ada:s3cr#et@db/atlas",
        "postgresql://ada:s3cr%zz@db/atlas",
        "postgresql://db/atlas?user=a@b&password=s3cr",
        "postgresql://db/atlas?PASSWORD=s3cr",
        "postgresql://db/atlas?passwor%64=s3cr",
        "host=db password=s3cr et user=ada",
        "host=db user=ada password=et s3cr",
        "host=db password='s3cr et' user=ada",
        "host=db password='s3cr et",
        "host=db password='it\\'s s3cr' user=ada",
        "host=db password=a://b:s3cr@c user=ada",
        "host=db sslpassword=s3cr",
    ],
)
def test_no_password_is_shown(given: str) -> None:
    assert _SECRET not in masked(given)
    assert _SECRET not in place(given)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://ada:s3cr/et@db/atlas", "postgresql://***"),
        ("postgres://ada:s3cr@et@db/atlas", "postgres://***"),
        ("mysql://ada:s3cr@db/atlas", "***"),
        ("host=db password='s3cr et", "***"),
        ("s3cr", "***"),
    ],
)
def test_of_what_cannot_be_read_the_scheme_is_all_that_is_shown(given: str, shown: str) -> None:
    assert masked(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://a:x@h1:1,h2:2/d?options=-c%20a%3Db", "postgresql://a:***@h1:1,h2:2/d?options=***"),
        ("postgresql://a:x@[::1]:5/d", "postgresql://a:***@[::1]:5/d"),
        ("postgresql://a:x@/d?host=/run/pg", "postgresql://a:***@/d?host=%2Frun%2Fpg"),
        ("postgresql://h/d?scram_client_key=aaaa", "postgresql://h/d?scram_client_key=***"),
        ("host=h options='-c a=b' user=u", "user=u host=h options=***"),
        ("host=h\nuser=u", "user=u host=h"),
        ("", ""),
    ],
)
def test_what_is_masked_can_be_read_again(given: str, shown: str) -> None:
    assert masked(given) == shown
    check_dsn(shown)


def test_the_schemes_of_other_libraries_are_named() -> None:
    for scheme in ("postgresql+psycopg:", "jdbc:postgresql:"):
        with pytest.raises(InvalidInput, match=rf"with postgresql: instead of {re.escape(scheme)}$"):
            check_dsn(f"{scheme}//u:s3cr@h/db")


def test_an_address_of_a_megabyte_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"^the DSN is longer than 16,384 characters$"):
        check_dsn("postgresql://" + "h" * 2**20)


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://ada:s3cr/et@db/atlas",
        "postgresql://ada:123/s3cr@db/atlas",
        "postgresql://ada:s3cr@et@db/atlas",
        "postgresql://ada:x@s3cr@db/atlas",
        "postgresql://ada:s3cr%zz@db/atlas",
        "postgresql://ada@db:s3cr/atlas",
        "postgresql://db/atlas?pasword=s3cr",
        "host=db password=x s3cr user=ada",
        "host=db password='s3cr",
        "postgresql://db?password=s3cr@x",
        "postgresql://ada%3As3cr@db/atlas",
        "host=postgresql://u:s3cr@h/db",
        "host=h dbname=postgresql://u:s3cr@h/db",
        "host=h user='a\nforged'",
        "host=h dbname=\udce9",
        "ada:s3cr@db/atlas",
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_word_of_it(given: str) -> None:
    with pytest.raises(InvalidInput, match="DSN cannot be read") as failure:
        check_dsn(given)
    assert _SECRET not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__ or failure.value.__context__ is None


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://ada@db/atlas",
        "postgresql://ada:a%2Fb%40c@db:5433/atlas?sslmode=verify-full",
        "postgres:///atlas?host=%2Frun%2Fpostgresql",
        "postgresql://a,b:5433/atlas",
        "postgresql://[::1]:5432/atlas",
        "host=a,b port=1,2 dbname=x@y password='http://x:y@z/'",
        "host=@abstract dbname=atlas",
        "service=atlas",
        "",
    ],
)
def test_what_can_be_meant_is_taken(given: str) -> None:
    check_dsn(given)


def test_words_of_the_server_keep_no_secret() -> None:
    dsn = "host=h password=pw options='-c app.secret=s3cr3t -c search_path=tenants'"
    said = 'connection failed: FATAL:  invalid value for parameter "app.secret": "s3cr3t"'
    assert scrubbed(said, dsn) == "connection failed: FATAL:  invalid value for parameter ***"
    # The secret is in a service file, which this function does not read.
    assert scrubbed("FATAL:  invalid command-line argument for server process: s3cr3t", "service=a") == (
        "FATAL:  invalid command-line argument ***"
    )
    assert scrubbed("no such schema: tenants, pwned by pw", dsn) == "no such schema: ***, pwned by ***"


def test_a_chain_of_errors_keeps_no_secret() -> None:
    dsn = "host=h options='-c app.secret=s3cr3t'"
    first = psycopg.OperationalError("s3cr3t")
    first.add_note("tried with s3cr3t")
    second = ValueError("then s3cr3t", 3)
    second.__cause__ = first
    first.__context__ = second
    scrub(second, dsn)
    assert (second.args, first.args, first.__notes__) == (("then ***", 3), ("***",), ["tried with ***"])
