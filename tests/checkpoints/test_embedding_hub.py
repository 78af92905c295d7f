"""Embedding models of the hub: a name that says so is enough, and the folders within come along."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit import kit
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.loading.embedding_source import is_embedding_model
from tests.checkpoints.fake_hub import Repository
from tests.loading.embedding_folders import add_dense, add_modules, make_bert

NAME = "owner/bge-tiny"


@pytest.fixture(autouse=True)
def no_model_stays():
    yield
    kit.stop_all()


@pytest.mark.slow
def test_a_model_of_sentence_transformers_is_downloaded_with_its_layers(hub, tmp_path):
    folder = make_bert(tmp_path / "model")
    add_modules(folder, "Pooling", "Dense", Pooling={"pooling_mode_cls_token": True})
    add_dense(folder, "2_Dense", (16, 4))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.repositories[NAME] = Repository({**files, "pytorch_model.bin": 9, "onnx/model.onnx": 9})
    here, downloaded = kit.load(folder), kit.load(NAME)
    texts = ["the dog", "a cat"]
    torch.testing.assert_close(torch.tensor(downloaded.embed(texts)), torch.tensor(here.embed(texts)))
    assert downloaded.info.embedding_size == 4
    kit.stop_all()
    hub.asked.clear()
    assert len(kit.load(NAME).embed("the dog")) == 4
    assert hub.asked == [], "what is here whole needs no hub"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("BAAI/bge-small-zh-v1.5", True),
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("Qwen/Qwen3-Embedding-0.6B", True),
        ("intfloat/multilingual-e5-small", True),
        ("BAAI/bge-reranker-base", True),
        ("Qwen/Qwen3-0.6B", False),
        ("google/gemma-3-1b-it", False),
    ],
)
def test_the_name_of_a_model_that_is_not_here_says_what_it_is(hub, name, is_one):
    assert is_embedding_model(parse_spec(name)) == is_one
