"""Errors can be pickled and copied, so that they pass between processes and through queues."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from error_samples import kinds, made

from atlas_sdk import errors
from atlas_sdk.errors import AtlasError, InvalidInput, MissingExtra, QuotaExceeded


def test_every_error_is_here() -> None:
    assert {kind.__name__ for kind in kinds()} >= set(errors.__all__)


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_a_journey(kind: type[AtlasError], again: Any) -> None:
    error = made(kind)
    error.add_note("seen by a worker")
    arrived = again(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)
    assert isinstance(arrived, tuple(kind.__mro__[1:-1]))


def test_what_an_error_reckons_it_still_reckons_after_a_journey() -> None:
    refused = made(QuotaExceeded)
    assert isinstance(refused, QuotaExceeded)
    arrived = pickle.loads(pickle.dumps(refused))
    assert (arrived.http_status, arrived.headers) == (refused.http_status, refused.headers)
    missing = copy.copy(MissingExtra("auth", needed_for="sessions"))
    assert missing.msg == str(missing)


def test_fields_are_not_shared_with_a_copy() -> None:
    error = InvalidInput("wrong", field="tokens")
    copied = copy.copy(error)
    copied.field = "cost"
    assert error.field == "tokens"
