"""The look at the hub before a download: what stands in the way is said with what to do."""

from __future__ import annotations

import sys
import threading
import types

import pytest
from huggingface_hub import constants

from llmapi_kit.checkpoints import hub_token
from llmapi_kit.checkpoints.hub import HubFile, HubModel, check_hub_model, look_up
from llmapi_kit.checkpoints.hub_token import ask_for_token, find_token
from llmapi_kit.errors import ModelNotFoundError, UnsupportedModelError
from tests.checkpoints.fake_hub import GIB, Repository

WEIGHTS = {"config.json": 500, "model.safetensors": GIB}


@pytest.fixture
def models(hub):
    """A hub with a few models."""
    hub.repositories |= {
        "good/small": Repository(dict(WEIGHTS)),
        "only/adapter": Repository({"adapter_config.json": 500, "adapter_model.safetensors": 1000}),
        "only/pickle": Repository({"pytorch_model.bin": 1000}),
        "only/gguf": Repository({"model-q8.gguf": 1000}),
        "gated/listed": Repository(dict(WEIGHTS), gated="auto"),
        "gated/hidden": Repository({}, status=403, error_code="GatedRepo"),
        "broken/model": Repository({}, status=500),
        "busy/model": Repository({}, status=429),
        "refusing/token": Repository({}, status=401),
    }
    return hub


def test_a_model_that_can_be_loaded_is_told_with_its_weights(models):
    found = check_hub_model("good/small")
    assert (found.weights_bytes, found.licence) == (GIB, "apache-2.0")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nobody/nothing", ModelNotFoundError, "no model 'nobody/nothing'.*HF_TOKEN"),
        ("gated/listed", ModelNotFoundError, "huggingface.co/gated/listed.*settings/tokens.*HF_TOKEN.*Colab's secrets"),
        ("gated/hidden", ModelNotFoundError, "accept its terms"),
        ("broken/model", ModelNotFoundError, "can't be reached at http://127"),
        ("busy/model", ModelNotFoundError, "no more requests.*429"),
        ("only/adapter", UnsupportedModelError, "lora='only/adapter'"),
        ("only/pickle", UnsupportedModelError, "pickle"),
        ("only/gguf", UnsupportedModelError, "GGUF.*model-q8.gguf"),
        ("Qwen/Qwen3-06B", ModelNotFoundError, "Did you mean 'Qwen/Qwen3-0.6B'"),
    ],
)
def test_what_stands_in_the_way_is_said_before_a_download(models, name, kind, message):
    with pytest.raises(kind, match=message):
        check_hub_model(name)


@pytest.mark.parametrize(
    ("name", "message"), [("gated/hidden", "token that was used may not"), ("refusing/token", "does not accept")]
)
def test_a_token_that_does_not_help_is_blamed_and_never_shown(models, monkeypatch, name, message):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        check_hub_model(name)
    assert models.asked[-1][3] == "hf_canary"
    assert "canary" not in f"{caught.value}{caught.value.__cause__!r}"


def test_no_network_is_said_at_once_with_the_place_and_the_mirror(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match=r"127\.0\.0\.1:9.*HF_ENDPOINT to a mirror"):
        check_hub_model("good/small")


def test_offline_mode_is_said(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE says"):
        check_hub_model("good/small")


def test_a_hub_that_tells_no_version_or_odd_digests_cannot_write_outside_of_the_cache(models, monkeypatch):
    odd = {"rfilename": "config.json", "size": 5, "blobId": "../../../x"}
    monkeypatch.setattr(Repository, "sibling", lambda self, name: odd)
    assert {file.digest for file in look_up("good/small").files} == {""}
    monkeypatch.setattr(Repository, "commit", "../../x")
    with pytest.raises(ModelNotFoundError, match=r"a version '\.\./\.\./x', which is not a commit"):
        look_up("good/small")


@pytest.mark.parametrize(
    ("names", "loaded"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"],
            ["model-1.safetensors", "model-2.safetensors"],
        ),
        (["original/model.safetensors", "weights.safetensors"], ["weights.safetensors"]),
    ],
)
def test_only_the_weights_that_are_loaded_count(names, loaded):
    model = HubModel("a/b", "", tuple(HubFile(name, 1) for name in names))
    assert [file.name for file in model.weights] == loaded


def test_no_code_and_no_pickle_is_asked_for():
    names = ("config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "vocab.json")
    others = ("modeling_x.py", "pytorch_model.bin", "tokenizer_x.py", "original/tokenizer.model", "README.md")
    model = HubModel("a/b", "", tuple(HubFile(name, 1) for name in (*names, *others)))
    assert {file.name for file in model.other_files} == set(names)


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Pretends to be Colab; returns where the answer of its secrets is set."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    return lambda answer: monkeypatch.setattr(hub_token.huggingface_hub, "get_token", answer)


def test_colab_is_asked_only_for_a_model_that_is_refused_without_a_token(models, colab):
    asked = []
    colab(lambda: asked.append("secret") or "hf_secret")
    check_hub_model("good/small")
    assert asked == []
    found = check_hub_model("gated/listed")
    assert (asked, found.token) == (["secret"], "hf_secret")
    assert "secret" not in repr(found)


def test_a_look_up_that_hangs_is_given_up_and_one_that_fails_is_no_token(colab):
    answered = threading.Event()
    colab(lambda: answered.wait(20) and "late")
    assert ask_for_token(timeout_s=0.01) is None
    answered.set()

    def refuse():
        raise RuntimeError("no access")

    colab(refuse)
    assert ask_for_token(timeout_s=20) is None


def test_the_environment_s_token_comes_before_that_of_the_file(colab, monkeypatch, tmp_path):
    assert find_token() is None
    (tmp_path / "token").write_text("hf_file\n")
    assert find_token() == "hf_file"
    monkeypatch.setenv("HF_TOKEN", "hf_variable")
    assert find_token() == "hf_variable"
