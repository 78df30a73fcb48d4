"""A user with a project."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_sdk import Project, User


@pytest.fixture
def user(face: Any) -> User:
    return face.users.create("ada@example.com")


@pytest.fixture
def project(face: Any, user: User) -> Project:
    return face.projects.create(user, path="/srv/app")
