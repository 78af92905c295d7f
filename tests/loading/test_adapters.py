"""A model loaded with adapters beside it: answers as PEFT gives, templates of their own, and models loaded later."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import POCKET_DIR, ModelSpec, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
from llmapi_kit.errors import ConfigError, ModelLoadError, ModelNotFoundError, NotFoundError, UnsupportedModelError
from llmapi_kit.loading.adapters import adapter_sources
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.loading.load_request import make_engine, resolve
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.model_memory import ModelMemory
from llmapi_kit.loading.servable import resolve_all
from tests.checkpoints.lora_files import ALL_LINEAR, by_peft, greedy, pocket, save_adapter, tiny
from tests.engines.conftest import ask, collect, make_local

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Adapters of the pocket model, one of another model, and one with a chat template of its own."""
    made = tmp_path_factory.mktemp("adapters")
    save_adapter(made / "strong", pocket(), target_modules=ALL_LINEAR)
    save_adapter(made / "weak", pocket(), strength=0.1, target_modules=["q_proj", "down_proj"], use_rslora=True)
    save_adapter(made / "other", tiny(), target_modules=["q_proj"])
    shutil.copytree(made / "weak", made / "templated")
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.chat_template = "{% for message in messages %}Q: {{ message.content }} A:{% endfor %}"
    tokenizer.save_pretrained(made / "templated")
    shutil.copytree(made / "weak", made / "worded")
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(made / "worded")
    return made


@pytest.fixture(scope="module")
def model(folder):
    lora = {"strong": str(folder / "strong"), "weak": str(folder / "weak")}
    made = Model(make_engine(parse_spec("pocket"), Settings(), lora=lora, device="cpu"))
    yield made
    made.close()


def answer(engine, text=QUESTION):
    return asyncio.run(collect(engine.generate(ask(text, max_tokens=24))))[0]


@pytest.mark.slow
def test_each_adapter_answers_as_peft_does_and_the_model_as_without(model, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    theirs = {"pocket": pocket()} | {f"pocket:{name}": by_peft(folder / name) for name in ("strong", "weak")}
    catalog = Catalog([model.engine])
    for name, theirs_of_name in theirs.items():
        expected = tokenizer.decode(greedy(theirs_of_name, tokenizer, QUESTION), skip_special_tokens=True)
        assert answer(catalog.get(name)) == expected
    assert answer(catalog.get("pocket")) != answer(catalog.get("pocket:strong"))


def test_an_adapters_own_chat_template_is_used_for_it(model, folder):
    name = model.adapters.add(folder / "templated")
    try:
        assert name == "pocket:templated"
        own = model.engine.adapters.engines()[name]
        ids = asyncio.run(own.tokenize_chat(ask("hello")))
        assert asyncio.run(own.detokenize(ids)).endswith("Q: hello A:")
        assert ids != asyncio.run(model.engine.tokenize_chat(ask("hello")))
        assert isinstance(answer(own), str)
    finally:
        model.adapters.remove("templated")


def test_a_cell_lists_adds_and_removes_them(model, folder):
    assert list(model.adapters) == ["strong", "weak"]
    assert model.adapters.add(folder / "weak", name="again") == "pocket:again"
    rows = model.adapters.list()
    assert [(row.name, row.model, row.rank) for row in rows][-1] == ("again", "pocket:again", 4)
    assert "pocket:again" in model.adapters._repr_html_()
    assert "again" in repr(model.adapters)
    model.adapters.remove("pocket:again")
    assert (list(model.adapters), len(model.adapters)) == (["strong", "weak"], 2)


@pytest.mark.parametrize(
    ("path", "name", "error", "words"),
    [
        ("strong", None, ConfigError, "'strong' already"),
        ("strong", "a/b", ConfigError, "'a/b'"),
        ("other", None, ModelLoadError, "another model"),
        ("worded", None, UnsupportedModelError, r"3,073 tokens .* merged: kit\.load"),
        ("nowhere", None, ModelNotFoundError, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_answers_as_before(model, folder, path, name, error, words):
    before = answer(model.engine)
    with pytest.raises(error, match=words):
        model.adapters.add(folder / path, name)
    assert list(model.adapters) == ["strong", "weak"]
    assert answer(model.engine) == before


def test_a_pickled_adapter_is_refused(model, folder, tmp_path):
    copied = shutil.copytree(folder / "weak", tmp_path / "pickled")
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(UnsupportedModelError, match="run code"):
        model.adapters.add(copied)


def test_a_load_with_an_adapter_that_does_not_fit_fails_whole(folder):
    lora = {"weak": str(folder / "weak"), "other": str(folder / "other")}
    with pytest.raises(ModelLoadError, match="another model"):
        make_engine(parse_spec("pocket"), Settings(), lora=lora, device="cpu")


def test_a_model_with_an_adapter_merged_in_takes_no_others(folder):
    merged = Model(make_engine(parse_spec("pocket"), Settings(), lora=str(folder / "weak"), device="cpu"))
    with pytest.raises(ConfigError, match=r"takes no adapters.*lora=\{"):
        merged.adapters.add(folder / "strong")
    assert list(merged.adapters) == []
    merged.close()


def test_lora_is_one_to_merge_or_several_by_name():
    assert adapter_sources("./a") == "./a"
    assert adapter_sources({"x": Path("folder/a"), "y": "owner/b"}) == {"x": "./folder/a", "y": "owner/b"}
    assert adapter_sources(["folder/a", "owner/b"]) == {"a": "folder/a", "b": "owner/b"}


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (["a/x", "b/x"], "two adapters 'x'"),
        ({"a:b": "./a"}, "'a:b'"),
        ({1: "./a"}, "this is 1"),
        ({"a": 5}, "LoRA adapter is 5"),
        ([None], "LoRA adapter is None"),
        (5, "lora=5"),
    ],
    ids=str,
)
def test_a_lora_that_names_none_is_refused_before_anything_is_loaded(lora, words):
    with pytest.raises(ConfigError, match=words):
        resolve("pocket", given={"lora": lora})


def test_names_of_adapters_are_known_before_they_are_loaded(folder):
    options = {"lora": {"a": folder / "weak"}}
    resolve_all("pocket", options=options, settings={}, aliases={"x": "pocket:a"}, default="pocket:a")
    with pytest.raises(ConfigError, match="pocket:b"):
        resolve_all("pocket", options=options, settings={}, aliases={"x": "pocket:b"}, default=None)


@pytest.fixture
def lazy():
    """A model over the fake runner that is loaded when it is asked for, with the adapters it is to have."""
    sources = {"a": "./a"}

    def make():
        engine = make_local(read_adapter=lambda source: AdapterFiles(weights=source))
        for name, source in sources.items():
            engine.adapters.add(source, name)
        return engine

    spec = ModelSpec("fake", "fake", "folder")
    made = LazyEngine(LazyModel(spec, make, MemoryNeed, ModelMemory(), Settings()), sources)
    yield made
    made.close()


def test_an_adapter_of_a_model_that_is_loaded_later_loads_it(lazy):
    catalog = Catalog([lazy])
    assert [each.info.id for each in catalog.listed()] == ["fake", "fake:a"]
    assert lazy.readiness().state == "unloaded"
    found = asyncio.run(catalog.find("fake:a"))
    assert lazy.readiness().state == "loaded"
    assert "chat" in found.info.capabilities
    assert answer(found) != answer(lazy)
    assert (found.info.id, found.info.parent) == ("fake:a", "fake")


def test_adapters_that_came_and_went_are_remembered_when_it_is_loaded_anew(lazy):
    model = Model(lazy)
    model.adapters.add("./b")
    model.adapters.remove("a")
    before = answer(Catalog([lazy]).get("fake:b"))
    assert lazy.unload()
    assert list(model.adapters) == ["b"]
    assert lazy.readiness().state == "unloaded", "listing them loads nothing"
    assert isinstance(answer(Catalog([lazy]).get("fake:b")), str)
    assert before
    removed = Catalog([lazy]).get("fake:b")
    model.adapters.remove("b")
    with pytest.raises(NotFoundError, match="'fake:b' was removed"):
        answer(removed)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More only wait for each other in models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
