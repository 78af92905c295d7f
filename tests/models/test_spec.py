from __future__ import annotations

import pytest

from llmapi_kit.errors import ModelNotFoundError, UnsupportedModelError
from llmapi_kit.models.spec import POCKET_DIR, parse_spec

pytestmark = pytest.mark.kernel


def test_shipped_names():
    assert parse_spec("pocket").path == POCKET_DIR
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


@pytest.mark.parametrize("name", ["model.gguf", "openai:gpt-4o"])
def test_kinds_that_are_not_supported_yet_say_so(name):
    with pytest.raises(UnsupportedModelError, match="not supported yet"):
        parse_spec(name)


def test_a_folder_without_configuration_or_weights_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        parse_spec(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        parse_spec(str(tmp_path))


def test_pickle_weights_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="run code"):
        parse_spec(str(tmp_path))
