"""Fixtures for pytest: `atlas` and `async_atlas`, a client on a temporary database for each test.

pytest loads this module wherever AtlasEngine is installed. Fixtures with these names in a test suite take precedence.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

# Import no names from the package: each run of pytest would have to load psycopg.
import atlas_sdk

if TYPE_CHECKING:
    from atlas_sdk import AsyncAtlas, Atlas

__all__ = ["async_atlas", "atlas"]

#: In its default mode pytest-asyncio runs only the async fixtures that carry its mark.
_async_fixture: Callable[[Callable[[], AsyncIterator[Any]]], Any] = (
    import_module("pytest_asyncio").fixture if find_spec("pytest_asyncio") else pytest.fixture
)


@pytest.fixture
def atlas() -> Iterator["Atlas"]:
    """Yield a client on a temporary database: migrated, without rows, dropped after the test."""
    with atlas_sdk.Atlas.temporary() as client:
        yield client


@_async_fixture
async def async_atlas() -> AsyncIterator["AsyncAtlas"]:
    """Yield an asyncio client on a temporary database, to a test that pytest-asyncio or anyio runs on asyncio."""
    async with atlas_sdk.AsyncAtlas.temporary() as client:
        yield client
