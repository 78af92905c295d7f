"""Tokens are found in the environment or with the host, and are never shown."""

from __future__ import annotations

import sys
import types

import pytest

from llmapi_kit.tunnels.secret_store import find_secret

NAME = "A_TOKEN"


def fake_colab(monkeypatch, get):
    colab = types.ModuleType("google.colab")
    colab.userdata = types.SimpleNamespace(get=get)
    google = types.ModuleType("google")
    google.colab = colab
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)


def test_environment_comes_first(monkeypatch):
    fake_colab(monkeypatch, lambda name: "from colab")
    monkeypatch.setenv(NAME, " from-environment ")
    secret = find_secret(NAME)
    assert secret.get_secret_value() == "from-environment"
    assert "from-environment" not in repr(secret)


def test_colab_is_asked_for_the_same_name(monkeypatch):
    fake_colab(monkeypatch, {NAME: "from-colab"}.__getitem__)
    assert find_secret(NAME).get_secret_value() == "from-colab"


@pytest.mark.parametrize(
    "error", [TimeoutError("outside of Colab's page"), KeyError(NAME), PermissionError("no access")]
)
def test_colab_raising_means_there_is_none(monkeypatch, error):
    def get(name):
        raise error

    fake_colab(monkeypatch, get)
    assert find_secret(NAME) is None


def test_kaggle_is_asked(monkeypatch):
    module = types.ModuleType("kaggle_secrets")
    module.UserSecretsClient = lambda: types.SimpleNamespace(get_secret=lambda name: f"{name} from kaggle")
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert find_secret(NAME).get_secret_value() == f"{NAME} from kaggle"


def test_nobody_has_it():
    assert find_secret(NAME) is None
