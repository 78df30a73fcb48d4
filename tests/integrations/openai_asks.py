"""Requests for the OpenAI client, prices, and a reported usage."""

from __future__ import annotations

from typing import Any

from atlas_sdk.integrations.prices import Price, Prices

CHAT: dict[str, Any] = {
    "model": "gpt-test-1",
    "max_completion_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
ASK: dict[str, Any] = {"model": "gpt-test-1", "max_output_tokens": 100, "input": "Hi"}
PRICES = Prices({"gpt-test-*": Price("2", "8", "0.50")})
USAGE = {"prompt_tokens": 10, "completion_tokens": 42, "total_tokens": 52}
