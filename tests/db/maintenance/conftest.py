"""Fixtures with a user and the user's project."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_sdk import Project, User


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


@pytest.fixture
def project(client: Any, user: User) -> Project:
    return client.projects.create(user, path="/srv/app")
