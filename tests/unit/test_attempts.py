"""The outcomes of the attempts of a call, without a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk.integrations.metering.attempts import Attempts
from atlas_sdk.integrations.metering.options import read_options
from atlas_sdk.integrations.metering.outcomes import POLICIES, CallOutcome

DEFAULTS = {outcome: policy["default"] for outcome, policy in POLICIES.items()}
REFUSAL = QuotaExceeded(dimension="tokens", asked=2, remaining=1)


class ConnectError(Exception):
    """Has the name of the HTTP library's error."""


class PoolTimeout(Exception):
    """As above."""


def begun(attempts: Attempts, *events: str) -> None:
    """Begin an attempt, and let the transport tell these events."""
    request = SimpleNamespace(extensions={})
    attempts.begin(request, awaited=False)
    for event in events:
        request.extensions["trace"](event, None)


def wrapped(cause: Exception) -> Exception:
    """Return an error of the client library that has this cause."""
    error = Exception("Connection error.")
    error.__cause__ = cause
    return error


SENT = ("connection.connect_tcp.started", "http11.send_request_headers.started")


def outcome(*events: str, error: Exception, status: int | None = None) -> list[CallOutcome]:
    """Return the outcome of one attempt, with all outcomes charged."""
    attempts = Attempts(lambda: None, dict.fromkeys(CallOutcome, "reservation"))
    begun(attempts, *events)
    if status is not None:
        request = attempts._made[-1].request
        answer = {"status_code": status, "response": SimpleNamespace(request=request)}
        vars(error).update(answer)  # as the libraries' errors
    return attempts.failed(error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, CallOutcome.REFUSED),
        (429, CallOutcome.REFUSED),
        (408, CallOutcome.NO_ANSWER),
        (500, CallOutcome.FAILED),
        (529, CallOutcome.FAILED),
        (200, CallOutcome.NO_ANSWER),
    ],
)
def test_the_status_decides(status: int, expected: CallOutcome) -> None:
    assert outcome(*SENT, error=Exception(), status=status) == [expected]


@pytest.mark.parametrize(
    ("events", "error", "expected"),
    [
        (SENT, Exception(), CallOutcome.NO_ANSWER),
        (SENT[:1], Exception(), CallOutcome.NEVER_SENT),
        ((), Exception(), CallOutcome.NO_ANSWER),
        ((), wrapped(ConnectError()), CallOutcome.NEVER_SENT),
        ((), wrapped(PoolTimeout()), CallOutcome.NEVER_SENT),
        (SENT, wrapped(ConnectError()), CallOutcome.NO_ANSWER),
        ((), wrapped(REFUSAL), CallOutcome.OWN_REFUSAL),
        ((), InvalidInput("no", field="x"), CallOutcome.OWN_REFUSAL),
        (SENT, wrapped(REFUSAL), CallOutcome.NO_ANSWER),
    ],
)
def test_without_a_status_the_trace_and_the_error_decide(events: Any, error: Exception, expected: CallOutcome) -> None:
    assert outcome(*events, error=error) == [expected]


@pytest.mark.parametrize(
    ("error", "expected"), [(REFUSAL, CallOutcome.OWN_REFUSAL), (TypeError(), CallOutcome.NEVER_SENT)]
)
def test_an_error_before_the_first_request_was_never_sent(error: Exception, expected: CallOutcome) -> None:
    assert Attempts(lambda: None, dict.fromkeys(CallOutcome, "reservation")).failed(error) == [expected]


def test_defaults_charge_only_what_may_have_been_billed() -> None:
    assert {name for name, charge in DEFAULTS.items() if charge != "free"} == {CallOutcome.NO_ANSWER, CallOutcome.CUT}
    attempts = Attempts(lambda: None, DEFAULTS)
    for status in (500, 529, 429):
        begun(attempts, *SENT)
        attempts.answered(status)
        assert not attempts.needs_more
    assert attempts.lost == 0
    assert attempts.failed(Exception()) == []


def test_a_charged_attempt_needs_another_reservation() -> None:
    attempts = Attempts(lambda: None, DEFAULTS)
    begun(attempts, *SENT)
    assert attempts.needs_more
    attempts.stopped = True
    assert attempts.failed(REFUSAL) == [CallOutcome.NO_ANSWER], "the refused attempt itself is free"
    attempts.reserved()
    assert not attempts.needs_more
    begun(attempts, *SENT)
    assert attempts.lost == 1
    assert attempts.failed(Exception()) == [CallOutcome.NO_ANSWER, CallOutcome.NO_ANSWER]


def options(**given: Any) -> Any:
    return read_options(None, lambda: None, given)  # type: ignore[arg-type,return-value]  # only the charges count


@pytest.mark.parametrize("chosen", CallOutcome)
def test_every_policy_has_an_option(chosen: CallOutcome) -> None:
    policy = POLICIES[chosen]
    assert options().charges == DEFAULTS
    for other in policy["others"]:
        assert options(**{policy["option"]: other}).charges == {**DEFAULTS, chosen: other}
    with pytest.raises(InvalidInput):
        options(**{policy["option"]: "nonsense"})


def test_on_unknown_is_the_default_of_no_answer() -> None:
    assert options(on_unknown="release").charges[CallOutcome.NO_ANSWER] == "free"
    assert options(on_unknown="release", on_no_answer="reservation").charges[CallOutcome.NO_ANSWER] == "reservation"


def test_a_refused_reservation_does_not_free_an_attempt_without_a_trace() -> None:
    attempts = Attempts(lambda: None, DEFAULTS)
    begun(attempts)
    attempts.stopped = True
    assert attempts.failed(REFUSAL) == [CallOutcome.NO_ANSWER]
