"""The API's tests of stored responses, once more on Postgres."""

from __future__ import annotations

import pytest

from tests.api.test_stored_responses import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.slow  # these need a Postgres server, so not on the other Pythons


@pytest.fixture(autouse=True)
def on_postgres(postgres, monkeypatch):
    """What every server of these tests opens unless it is told otherwise."""
    monkeypatch.setenv("LLMAPI_KIT_DATABASE_URL", postgres.new_database())
