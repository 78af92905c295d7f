"""A loader of one's own: each step can be replaced, and the kit's own models go through the same steps."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import llmapi_kit as kit
from llmapi_kit.checkpoints.spec import POCKET_DIR, ModelSpec, parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, InvalidRequestError, ModelNotFoundError, UnsupportedModelError
from llmapi_kit.loading import sources
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.loader import ModelLoader
from tests.plugin_packages import without_collecting_garbage

QUESTION = "What is the capital of France?"


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    without_collecting_garbage(monkeypatch)
    monkeypatch.setenv("LLMAPI_KIT_NATIVE", "false")
    yield
    kit.stop_all()


class Upside(ModelLoader):
    """Takes notes of its steps, and asks another question than was asked."""

    steps = ()

    def note(self, step):
        type(self).steps = (*type(self).steps, step)

    def load_weights(self):
        self.note("weights")
        return replace(super().load_weights(), sampling_defaults={"temperature": 0.0})

    def load_tokenizer(self, loaded):
        self.note("tokenizer")
        return super().load_tokenizer(loaded)

    def prepare_messages(self, messages):
        if not messages[-1]["content"]:
            raise InvalidRequestError("say something", param="messages")
        return [{"role": "user", "content": QUESTION}]

    def make_engine(self):
        self.note("engine")
        return super().make_engine()


@pytest.mark.slow
def test_each_step_is_taken_and_messages_are_prepared():
    Upside.steps = ()
    plain = kit.load("pocket", max_slots=2)
    mine = kit.load(Upside("pocket"), max_slots=2, served_name="upside")
    assert Upside.steps == ("engine", "weights", "tokenizer")
    assert mine.name == "upside"
    answer = plain.ask(QUESTION, max_tokens=12)
    assert "Paris" in answer
    assert mine.ask("Something else entirely.", max_tokens=12) == answer
    with pytest.raises(InvalidRequestError, match="say something"):
        mine.ask("")


@pytest.mark.slow
def test_a_loader_that_replaces_the_weights_gets_a_model_of_transformers(monkeypatch):
    monkeypatch.setenv("LLMAPI_KIT_NATIVE", "true")
    seen = []

    class Curious(ModelLoader):
        def load_weights(self):
            loaded = super().load_weights()
            seen.append(loaded.model.get_input_embeddings().weight.shape[0])
            return loaded

    model = kit.load(Curious("pocket"), max_slots=1)
    assert seen == [3072]
    assert model.engine.info.description == kit.load("pocket", max_slots=1).engine.info.description


class Light(ModelLoader):
    """Loads nothing, and remembers what it was to load."""

    def make_engine(self):
        engine = MockEngine(name=self.spec.id)
        engine.made_with = self
        return engine


def test_the_same_loader_gives_the_same_model_and_another_class_another():
    class Other(Light):
        pass

    model = kit.load(Light("pocket"), max_slots=1)
    assert kit.load(Light("pocket"), max_slots=1) is model
    assert kit.load(Light("pocket"), max_slots=2) is not model
    assert kit.load(Other("pocket"), max_slots=1) is not model


def test_loaders_that_differ_in_an_attribute_are_two():
    class Polite(Light):
        def __init__(self, name, system):
            super().__init__(name)
            self.system = system

    model = kit.load(Polite("pocket", "Be kind."))
    assert kit.load(Polite("pocket", "Be kind.")) is model
    assert kit.load(Polite("pocket", "Be brief.")) is not model


def test_options_come_from_the_loader_and_those_of_load_win():
    loader = Light("pocket", dtype="bfloat16", max_slots=7)
    made = kit.load(loader).engine.made_with
    assert (made.options, made.settings.max_slots) == ({"dtype": "bfloat16"}, 7)
    made = kit.load(loader, dtype="float32", max_slots=5).engine.made_with
    assert (made.options, made.settings.max_slots) == ({"dtype": "float32"}, 5)
    assert loader.options == {"dtype": "bfloat16", "max_slots": 7}
    with pytest.raises(ConfigError, match="no argument 'speed'"):
        kit.load(loader, speed=3)
    with pytest.raises(ConfigError, match="no argument 'speed'"):
        kit.load(Light("pocket", speed=3))


def test_a_loader_may_know_names_that_the_kit_does_not(tmp_path):
    class Onnx(Light):
        def find(self, name):
            return ModelSpec(name, "onnx-model", "folder", tmp_path)

    assert kit.load(Onnx("model.onnx")).name == "onnx-model"


def test_the_kits_own_models_go_through_the_same_steps(monkeypatch):
    monkeypatch.setattr(sources, "ModelLoader", Upside)
    Upside.steps = ()
    engine = make_engine(parse_spec("pocket"), load_settings(max_slots=1), dtype="bfloat16")
    try:
        assert Upside.steps == ("engine", "weights", "tokenizer")
        assert engine.info.dtype == "bfloat16"
    finally:
        engine.close()


@pytest.mark.slow
def test_a_loader_of_several_loads_when_it_is_asked_for(tmp_path):
    folder = shutil.copytree(POCKET_DIR, tmp_path / "copy")
    Upside.steps = ()
    server = kit.launch([Upside(str(folder)), "mock"], port=0, max_slots=1)
    assert (server.models, Upside.steps) == (["copy", "mock"], ())
    with server.client() as client:
        messages = [{"role": "user", "content": "Something else."}]
        answer = client.chat.completions.create(model="copy", messages=messages, max_tokens=12)
    assert "Paris" in answer.choices[0].message.content
    assert len(Upside.steps) == 3


def test_a_name_that_means_nothing_fails_when_the_loader_is_made():
    with pytest.raises(ModelNotFoundError):
        Upside("./nowhere")
    with pytest.raises(UnsupportedModelError, match="not loaded from files"):
        Upside("mock")
    with pytest.raises(ConfigError, match="name, a path or a ModelLoader"):
        kit.load(3)
