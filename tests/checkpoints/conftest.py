"""A hub of its own for the tests of downloads, and a cache of its own for each."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def hub_server():
    """One server for a module."""
    from tests.checkpoints.fake_hub import FakeHub  # needs huggingface_hub, which the kernel tests beside do without

    with FakeHub() as server:
        yield server


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The hub, empty; its clients' cache, empty; and no token in the user's folder."""
    from huggingface_hub import constants

    hub_server.reset()
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "not yet there"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield hub_server
    hub_server.faults.released.set()
