"""Tokens are found in the environment or with the host, and are never shown."""

from __future__ import annotations

import sys
import threading
import types

import pytest

from llmapi_kit.tunnels import secret_store
from llmapi_kit.tunnels.secret_store import ask_person, find_secret, forget_secret

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


def in_a_thread(function):
    """What it returns on another thread than the main one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(60)
    return found[0]


def test_another_thread_asks_no_host_and_has_what_the_host_said_before(monkeypatch):
    fake_colab(monkeypatch, {NAME: "from-colab"}.__getitem__)
    assert in_a_thread(lambda: find_secret(NAME)) is None
    find_secret(NAME)
    assert in_a_thread(lambda: find_secret(NAME)).get_secret_value() == "from-colab"


def test_a_hosts_new_answer_counts(monkeypatch):
    secrets = {NAME: "old"}
    fake_colab(monkeypatch, secrets.__getitem__)
    find_secret(NAME)
    secrets[NAME] = "new"
    assert find_secret(NAME).get_secret_value() == "new"


@pytest.fixture
def person(monkeypatch):
    """Somebody who is there and types; what they were asked."""
    asked = []
    monkeypatch.setattr(secret_store, "_can_ask_person", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or " typed ")
    return asked


def test_a_person_is_asked_once_and_unseen(person):
    assert ask_person(NAME, "Token: ").get_secret_value() == "typed"
    assert find_secret(NAME).get_secret_value() == "typed"
    assert person == ["Token: "]


def test_a_refused_answer_is_forgotten(person):
    ask_person(NAME, "Token: ")
    forget_secret(NAME)
    assert find_secret(NAME) is None


def test_no_other_thread_asks_a_person(person):
    assert in_a_thread(lambda: ask_person(NAME, "Token: ")) is None
    assert person == []


@pytest.mark.parametrize("error", [EOFError(), OSError("no terminal"), NotImplementedError("no page")])
def test_a_page_that_takes_no_input_means_there_is_none(person, monkeypatch, error):
    def fail(prompt):
        raise error

    monkeypatch.setattr("getpass.getpass", fail)
    assert ask_person(NAME, "Token: ") is None


@pytest.mark.parametrize("takes_input", [True, False])
def test_a_kernel_says_whether_its_page_takes_input(monkeypatch, takes_input):
    shell = types.SimpleNamespace(kernel=types.SimpleNamespace(_allow_stdin=takes_input))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert secret_store._can_ask_person() is takes_input


def test_a_program_without_a_terminal_asks_nobody(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not secret_store._can_ask_person()
