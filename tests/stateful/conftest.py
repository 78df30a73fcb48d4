"""Settings of the state machines."""

from __future__ import annotations

import pytest

# The steps are in modules of their own, whose failures must show their values, too.
pytest.register_assert_rewrite("quota_steps", "quota_wait_rules")
