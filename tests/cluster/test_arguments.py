"""What a cluster is told is checked before anything is loaded, and without Ray."""

from __future__ import annotations

import importlib.util

import pytest

from llmapi_kit import kit
from llmapi_kit.cluster.arguments import read_arguments
from llmapi_kit.cluster.connection import check_address
from llmapi_kit.cluster.deployment import deployment_name
from llmapi_kit.cluster.replicas import Replicas, read_replicas
from llmapi_kit.config import load_settings
from llmapi_kit.errors import ConfigError, MissingDependencyError

KEY = {"LLMAPI_KIT_API_KEY": "sk-of-the-cluster-0123456789"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, Replicas(1, 1)),
        (3, Replicas(3, 3)),
        ({"max": 8}, Replicas(1, 8)),
        ({"min": 2}, Replicas(2, 2)),
        ({"min": 2, "max": 4, "num_cpus": 0.5, "num_gpus": 1}, Replicas(2, 4, 0.5, 1)),
    ],
)
def test_replicas_are_a_number_or_say_more(given, wanted):
    assert read_replicas(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "from 1 to 1000"),
        (True, "from 1 to 1000"),
        ("two", "from 1 to 1000"),
        ({"min": 3, "max": 2}, "less than"),
        ({"maximum": 2}, "has 'maximum'"),
        ({"num_gpus": -1}, "0 or more"),
    ],
)
def test_replicas_that_can_not_be_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        read_replicas(given)


def test_a_replica_has_a_request_waiting_for_each_of_its_slots():
    replicas, settings = Replicas(1, 4), load_settings(max_slots=8, max_queue=3)
    assert replicas.num_ongoing(settings) == 8 + 3
    assert replicas.most_requests(settings) == 4 * (8 + 3 + 3)
    assert replicas.num_ongoing(load_settings(max_slots=8)) == 16


@pytest.mark.parametrize("address", ["", "bogus", 3, None])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="'auto'"):
        check_address(address)


def test_without_ray_the_pip_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "llmapi-kit\[ray\]"'):
        kit.launch("mock", cluster="auto", port=0)


def test_replicas_without_a_cluster_are_an_argument_of_load():
    with pytest.raises(ConfigError, match="cluster"):
        kit.launch("mock", replicas=2, port=0)


def test_a_model_of_this_process_is_not_taken_for_one_of_the_cluster():
    with pytest.raises(ConfigError, match="by name"):
        kit.launch(kit.load("mock"), cluster="auto", port=0)


def test_the_apps_arguments_may_come_from_a_command_line():
    arguments = read_arguments({"models": "mock", "replicas": "{max: 2}", "ingress_replicas": "1"}, KEY)
    assert [model.request.spec.id for model in arguments.models] == ["mock"]
    assert arguments.models[0].replicas == Replicas(1, 2)
    assert arguments.api_key == KEY["LLMAPI_KIT_API_KEY"]
    assert KEY["LLMAPI_KIT_API_KEY"] not in repr(arguments)


def test_each_model_may_have_options_and_replicas_of_its_own():
    models = [{"name": "mock", "served_name": "a", "replicas": 2, "max_slots": 4}, {"name": "mock", "served_name": "b"}]
    arguments = read_arguments({"models": models, "replicas": 3, "max_slots": 16, "default": "b"}, KEY)
    assert [model.replicas.least for model in arguments.models] == [2, 3]
    assert [model.request.settings.max_slots for model in arguments.models] == [4, 16]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modles": "mock"}, "Did you mean 'models'"),
        ({"models": []}, "a model's name"),
        ({"models": [3]}, "each is a name"),
        ({"models": "mock", "aliases": "x"}, "aliases"),
        ({"models": "mock", "default": "other"}, "other"),
        ({"models": "mock", "ingress_replicas": 0}, "1 or more"),
        ({"models": "mock", "ingress_replicas": 2}, "database"),
        ({"models": "mock", "api_key": "sk-0123456789abcdef"}, "can only be false"),
        ({"models": "mock", "api_key_file": "/nowhere"}, "can't be read"),
        ({"models": "mock", "max_slots": 0}, "max_slots"),
    ],
)
def test_arguments_that_can_not_be_followed_are_refused_by_name(given, message):
    with pytest.raises(ConfigError, match=message):
        read_arguments(given, KEY)


def test_an_app_without_a_key_has_to_say_so():
    with pytest.raises(ConfigError, match="There is no API key"):
        read_arguments({"models": "mock"}, {})
    assert read_arguments({"models": "mock", "api_key": False}, {}).api_key is None


def test_a_key_that_others_can_guess_is_refused():
    with pytest.raises(ConfigError, match="characters"):
        read_arguments({"models": "mock"}, {"LLMAPI_KIT_API_KEY": "short"})


def test_names_of_deployments_have_nothing_that_serve_reads():
    assert deployment_name("Qwen/Qwen3-0.6B#x") == "Qwen-Qwen3-0.6B-x"
