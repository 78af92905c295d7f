"""A work folder with the tiny benchmark model, made once."""

from __future__ import annotations

import pytest

from benchmarks.models import make_model

from .forks import Forks


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def tiny(work):
    return make_model("tiny", work)


@pytest.fixture(scope="session")
def forks():
    """Starts programs that have torch imported."""
    forks = Forks()
    yield forks
    forks.close()
