"""A request for the Anthropic client, its upper bound, and prices."""

from __future__ import annotations

from typing import Any

from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.prices import Price, Prices

ASK: dict[str, Any] = {"model": "claude-test-1", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
BOUND = input_bound(ASK)
PRICES = Prices({"claude-test-*": Price("3", "15", "0.30", "3.75")})
ERROR = {"type": "error", "error": {"type": "an_error", "message": "no"}}
