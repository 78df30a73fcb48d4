"""The ways in which a model call can end without a complete answer, and the charge for each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypedDict

__all__ = ["POLICIES", "CallOutcome", "Charge", "OutcomeOptions", "Policy"]

Charge = Literal["free", "reservation"]


class CallOutcome(StrEnum):
    """The end of a call, or of one of its attempts, that has no complete answer."""

    #: The provider answered with a 4xx, other than 408.
    REFUSED = "refused"
    #: The provider answered with a 5xx.
    FAILED = "failed"
    #: The request was sent, and no usable answer came: a time-out, a lost connection, a cancellation, a 408.
    NO_ANSWER = "no_answer"
    #: A stream began and ended before the provider reported its usage.
    CUT = "cut"
    #: An error of this SDK stopped the request before it was sent, such as a limit that allows no further attempt.
    OWN_REFUSAL = "own_refusal"
    #: The request was not sent: no connection, or an error in the program.
    NEVER_SENT = "never_sent"


class OutcomeOptions(TypedDict, total=False):
    """The options of `guarded` that change the charge of an outcome. POLICIES has the defaults."""

    on_refused: Charge
    on_failed: Charge
    on_no_answer: Charge
    on_cut: Literal["free", "progress", "reservation"]
    on_own_refusal: Charge
    on_never_sent: Charge


class Policy(TypedDict):
    """The default charge of an outcome, and its reason."""

    option: str
    default: str
    others: tuple[str, ...]
    reason: str


#: The policy of each outcome. `docs/metering.md` shows this table.
POLICIES: Mapping[CallOutcome, Policy] = {
    CallOutcome.REFUSED: Policy(
        option="on_refused",
        default="free",
        others=("reservation",),
        reason="no provider bills a request that it refuses",
    ),
    CallOutcome.FAILED: Policy(
        option="on_failed", default="free", others=("reservation",), reason="no provider bills its own failure"
    ),
    CallOutcome.NO_ANSWER: Policy(
        option="on_no_answer",
        default="reservation",
        others=("free",),
        reason="the provider may have finished the work, and bills it",
    ),
    CallOutcome.CUT: Policy(
        option="on_cut",
        default="progress",
        others=("reservation", "free"),
        reason="the provider bills the input and the output so far",
    ),
    CallOutcome.OWN_REFUSAL: Policy(
        option="on_own_refusal", default="free", others=("reservation",), reason="the provider never saw the request"
    ),
    CallOutcome.NEVER_SENT: Policy(
        option="on_never_sent", default="free", others=("reservation",), reason="the provider never saw the request"
    ),
}
