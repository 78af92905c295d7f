from __future__ import annotations

import pytest

from llmapi_kit.checkpoints.spec import POCKET_DIR, POCKET_VISION_DIR, UpstreamName, parse_spec
from llmapi_kit.errors import ModelNotFoundError, UnsupportedModelError

pytestmark = pytest.mark.kernel


def test_shipped_names():
    assert parse_spec("pocket").path == POCKET_DIR
    assert (parse_spec("pocket-vision").path, parse_spec("pocket-vision").id) == (POCKET_VISION_DIR, "pocket-vision")
    assert parse_spec("mock").kind == "mock"


def test_a_hub_name_keeps_its_owner():
    spec = parse_spec("Qwen/Qwen3-0.6B")
    assert (spec.kind, spec.id, spec.path) == ("hub", "Qwen/Qwen3-0.6B", None)


def test_a_folder_is_served_under_its_own_name(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    spec = parse_spec(str(folder))
    assert (spec.kind, spec.id, spec.path) == ("folder", "my-model", folder)


@pytest.mark.parametrize("name", ["nothing", "./nowhere", "/nowhere", "~/nowhere", "a/b/c", "", "a b/c"])
def test_a_name_that_means_nothing_is_refused_with_what_is_allowed(name):
    with pytest.raises(ModelNotFoundError, match="pocket"):
        parse_spec(name)


@pytest.mark.parametrize(
    ("name", "provider", "model", "base_url"),
    [
        ("openai:gpt-5", "openai", "gpt-5", ""),
        ("ollama:llama3.2:3b", "ollama", "llama3.2:3b", ""),
        ("openrouter:meta-llama/llama-4:free", "openrouter", "meta-llama/llama-4:free", ""),
        ("welm:xl", "welm", "xl", ""),
        ("vllm:http://gpu:8000/v1", "vllm", "", "http://gpu:8000/v1"),
        ("vllm:http://gpu:8000/v1#Qwen/Qwen3-4B", "vllm", "Qwen/Qwen3-4B", "http://gpu:8000/v1"),
        ("openai+https://any.host/base/v1#m", "compatible", "m", "https://any.host/base/v1"),
        ("openai+http://127.0.0.1:1/v1", "compatible", "", "http://127.0.0.1:1/v1"),
        ("openai:https://proxy.host/v1#gpt-5", "openai", "gpt-5", "https://proxy.host/v1"),
    ],
)
def test_a_providers_model(name, provider, model, base_url):
    spec = parse_spec(name)
    assert (spec.kind, spec.id, spec.path) == ("upstream", model, None)
    assert spec.upstream == UpstreamName(provider, model, base_url)


@pytest.mark.parametrize("name", ["nobody:gpt", "groq+https://host/v1#m", "https://host/v1"])
def test_an_unknown_provider_is_refused_with_the_known_ones(name):
    with pytest.raises(ModelNotFoundError, match=r"openai, azure, anthropic.*openai\+https://"):
        parse_spec(name)


@pytest.mark.parametrize("name", ["openai:", "openai: gpt", "openai:a\nb"])
def test_a_provider_without_a_model_is_refused(name):
    with pytest.raises(ModelNotFoundError, match="name of a model"):
        parse_spec(name)


def test_a_folder_without_configuration_or_weights_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        parse_spec(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        parse_spec(str(tmp_path))


def test_a_place_in_a_hub_cache_is_told_from_a_model_in_it(tmp_path):
    version = tmp_path / "models--owner--name" / "snapshots" / "0123456789abcdef"
    version.mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match=f"{version}; or set HF_HUB_CACHE to {tmp_path} before"):
        parse_spec(str(version.parent.parent))


def test_an_adapter_is_not_taken_for_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="lora="):
        parse_spec(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="lora="):
        parse_spec(str(tmp_path))


def test_pickle_weights_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="run code"):
        parse_spec(str(tmp_path))
