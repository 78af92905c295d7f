"""Each place that notebooks run on, with its environment faked: it is recognised, and what matters there is said."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import types
from pathlib import Path

import pytest

from llmapi_kit import places
from llmapi_kit.notebook import doctor

HUB = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/", "JUPYTERHUB_HOST": "https://hub.example"}
ENVIRONMENTS = {
    "Kaggle": ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "Internet on", None),
    "RunPod": ({"RUNPOD_POD_ID": "a1b2"}, "100 s", "https://a1b2-8000.proxy.runpod.net"),
    "vast.ai": (
        {"VAST_CONTAINERLABEL": "C.1", "PUBLIC_IPADDR": "192.0.2.7", "VAST_TCP_PORT_8000": "40123"},
        "without TLS",
        "http://192.0.2.7:40123",
    ),
    "AutoDL": ({"AutoDLContainerUUID": "x"}, "port=6006", None),
    "Lightning AI": ({"LIGHTNING_CLOUD_SPACE_ID": "x"}, "sleeps", None),
    "SageMaker Studio Lab": ({"HOME": "/home/studio-lab-user"}, "15 GB", None),
    "GitHub Codespaces": (
        {"CODESPACES": "true", "CODESPACE_NAME": "blue-tree"},
        "make it public",
        "https://blue-tree-8000.app.github.dev",
    ),
    "JupyterHub": (HUB, "install jupyter-server-proxy", None),
    "a machine over ssh": (
        {"SSH_CONNECTION": "192.0.2.1 5000 192.0.2.9 22"},
        "ssh -L 8000:127.0.0.1:8000 192.0.2.9",
        None,
    ),
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No trace of the machine that the tests run on."""
    for name in list(os.environ):
        if name.startswith(("KAGGLE", "RUNPOD", "VAST", "AutoDL", "LIGHTNING", "CODESPACE", "JUPYTERHUB", "SSH_")):
            monkeypatch.delenv(name)


@pytest.fixture
def colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))


def test_a_machine_like_any_other_is_no_place():
    assert places.here() is None
    assert places.tunnel_policy() is None
    assert places.outside_url(8000) is None
    assert list(doctor.check_host()) == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_place_is_recognised_and_says_what_matters_there(monkeypatch, name):
    variables, words, url = ENVIRONMENTS[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(places, "has_server_proxy", lambda: False)
    assert places.here().name == name
    assert places.outside_url(8000) == url
    (check,) = doctor.check_host()
    assert words in check.text
    assert (url or "") in check.text
    assert "\n" not in check.text


def test_every_place_has_a_test():
    assert {place.name for place in places.PLACES} == {"Google Colab", *ENVIRONMENTS}


def test_colab_is_known_by_its_imported_module(colab):
    assert places.here().name == "Google Colab"
    assert "torch and an ipywidgets of its own" in places.here().note()
    assert "free tier" in places.tunnel_policy()


def test_colab_variables_without_the_module_are_not_colab(monkeypatch):
    monkeypatch.setenv("COLAB_GPU", "1")
    assert places.here() is None


def test_kaggles_rules_are_said(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert "forbid" in places.tunnel_policy()


def test_a_hub_with_a_proxy_shows_the_address(monkeypatch):
    for variable, value in HUB.items():
        monkeypatch.setenv(variable, value)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.4" if "proxy" in name else real(name))
    assert places.outside_url(8000) == "https://hub.example/user/ada/proxy/8000"
    assert "/user/ada/proxy/PORT" in places.here().note()


def test_a_port_that_vast_does_not_pass_on_has_no_address(monkeypatch):
    monkeypatch.setenv("VAST_CONTAINERLABEL", "C.1")
    monkeypatch.setenv("PUBLIC_IPADDR", "192.0.2.7")
    assert places.outside_url(8000) is None


def test_looking_needs_no_home_that_exists(monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    assert not Path.home().exists()
    assert places.here() is None
