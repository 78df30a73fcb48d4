"""Addresses are shown without their passwords, also when these were not escaped as they must be."""

from __future__ import annotations

import pytest

from atlas_sdk import InvalidInput
from atlas_sdk._translate import check_dsn
from atlas_sdk.dsn import masked

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
    assert "db" in masked(given)


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
