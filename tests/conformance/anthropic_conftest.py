"""The fixtures of the anthropic client's tests, without those of its recorded ones: each client loose, and strict."""

from __future__ import annotations

import os

import pytest
from anthropic import Anthropic, AsyncAnthropic, DefaultAioHttpClient
from pytest_asyncio import is_async_test

API_KEY = "my-anthropic-api-key"


def pytest_collection_modifyitems(items):
    """The asynchronous client lives for the whole session, so the loop does too."""
    for item in items:
        if is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def options(strict):
    base_url = os.environ["TEST_API_BASE_URL"]
    return {"base_url": base_url, "api_key": API_KEY, "_strict_response_validation": strict}


@pytest.fixture(scope="session")
def client(request):
    with Anthropic(**options(request.param)) as made:
        yield made


@pytest.fixture(scope="session")
async def async_client(request):
    if isinstance(request.param, bool):
        strict, http_client = request.param, None
    else:
        strict, http_client = request.param.get("strict", True), DefaultAioHttpClient()
    async with AsyncAnthropic(**options(strict), http_client=http_client) as made:
        yield made
