"""The pocket model as a GGUF file, served: the same answers, and templates that can't break out."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import transformers

from benchmarks.gguf_file import write_gguf
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, InvalidRequestError, MissingDependencyError, ModelError, ModelLoadError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.model import Model
from llmapi_kit.models.gguf import open_gguf
from llmapi_kit.models.spec import POCKET_DIR, parse_spec
from llmapi_kit.models.weights import load_model
from tests.models.gguf_files import write_model
from tests.models.lora_files import pocket, save_adapter
from tests.models.test_gguf import IDS, make


@pytest.fixture(scope="module")
def pocket_file(tmp_path_factory):
    """The pocket model as GGUF. Copy it before changing it."""
    path = tmp_path_factory.mktemp("gguf") / "small-one.gguf"
    model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32)
    template = (POCKET_DIR / "chat_template.jinja").read_text()
    write_gguf(model, json.loads((POCKET_DIR / "tokenizer.json").read_text()), template, path)
    return path


def asked(spec, questions, **options):
    model = Model(make_engine(spec, Settings(), device="cpu", **options))
    try:
        return model.info, [model.ask(question, max_tokens=40, temperature=0) for question in questions]
    finally:
        model.close()


@pytest.mark.slow
def test_the_pocket_model_answers_the_same_from_either_file(pocket_file):
    questions = ["What is the capital of France?", "你好", "Count from 3 to 7.", "Who are you?"]
    info, answers = asked(parse_spec(str(pocket_file)), questions, tokenizer="pocket")
    theirs, expected = asked(parse_spec("pocket"), questions)
    assert answers == expected
    assert (info.id, info.context_length, info.capabilities) == ("small-one", 2048, theirs.capabilities)
    assert (info.num_parameters, info.dtype, info.defaults) == (theirs.num_parameters, "float32", {})


def test_tokenizer_template_and_ends_come_from_the_file(pocket_file):
    loaded = load_model(parse_spec(str(pocket_file)), device="cpu")
    assert loaded.eos_ids == (0, 2)
    assert loaded.tokenizer.chat_template == (POCKET_DIR / "chat_template.jinja").read_text()
    own = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == text
    assert loaded.tokenizer.encode(text) == own.encode(text)
    _, answers = asked(parse_spec(str(pocket_file)), ["What is the capital of France?"])
    assert answers == ["The capital of France is Paris."]


def test_what_a_file_recommends_holds_where_nothing_else_is_said(pocket_file, tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"

    def recommend(writer):
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)

    write_model(path, make("qwen2"), extra=recommend)
    loaded = load_model(parse_spec(str(path)), device="cpu", tokenizer=str(tokenizer_of_96(tmp_path)))
    assert loaded.sampling_defaults == {"temperature": 0.5, "top_k": 20}
    options = {"tokenizer": str(tmp_path / "tokenizer"), "sampling": {"temperature": 0.7}}
    loaded = load_model(parse_spec(str(path)), device="cpu", **options)
    assert loaded.sampling_defaults == {"temperature": 0.7, "top_k": 20}
    with pytest.raises(ConfigError, match="heat"):
        load_model(parse_spec(str(path)), device="cpu", sampling={"heat": 1})


def tokenizer_of_96(tmp_path):
    """A folder with a tokenizer of 96 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}",
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
        "{{ self.__init__.__globals__['__builtins__']['open']('CANARY', 'w') }}",
        "{{ messages.append.__self__.__class__.__base__.__subclasses__()[0] }}",
        "{{ namespace.__init__.__globals__['os'].system('touch CANARY') }}",
        "{% include 'CANARY' %}",
        "{{ messages.__class__.__bases__ }}{{ raise_exception.__globals__ }}",
    ],
)
def test_a_template_that_breaks_out_is_an_error_and_does_nothing(attack, pocket_file, tmp_path):
    canary = tmp_path / "canary"
    whole = pocket_file.read_bytes()
    template = (POCKET_DIR / "chat_template.jinja").read_bytes()
    hostile = attack.replace("CANARY", str(canary)).encode()
    assert len(hostile) < len(template)
    path = tmp_path / "m.gguf"
    path.write_bytes(whole.replace(template, hostile + b" " * (len(template) - len(hostile))))
    model = Model(make_engine(parse_spec(str(path)), Settings(), device="cpu"))
    try:
        with pytest.raises(InvalidRequestError, match="template"):
            model.ask([{"role": "user", "content": "hello"}])
        assert not canary.exists()
    finally:
        model.close()


def test_names_of_files_are_understood_by_what_is_there(tmp_path):
    with pytest.raises(ModelError, match="no GGUF file"):
        parse_spec(str(tmp_path / "none.gguf"))
    path = write_model(tmp_path / "without-an-ending", make("qwen2"))
    assert (parse_spec(str(path)).kind, parse_spec(str(path)).id) == ("gguf", "without-an-ending")
    write_model(tmp_path / "my.model.gguf", make("qwen2"))
    assert parse_spec(str(tmp_path / "my.model.gguf")).id == "my.model"
    with pytest.raises(ModelError, match=r"name the one to load.*my\.model\.gguf"):
        parse_spec(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"config\.json is not a GGUF file"):
        load_model(parse_spec(str(tmp_path / "config.json")))


def test_without_the_package_that_knows_the_formats_the_extra_is_named(pocket_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"llmapi-kit\[gguf\]"):
        open_gguf(pocket_file)


def test_a_gguf_file_is_not_quantised_again(pocket_file):
    with pytest.raises(ConfigError, match="GGUF"):
        load_model(parse_spec(str(pocket_file)), device="cpu", quantize="8bit")


def test_an_adapter_goes_on_a_gguf_model_too(pocket_file, tmp_path):
    folder = save_adapter(tmp_path / "lora", pocket(), target_modules=["q_proj", "down_proj"])
    on_gguf = load_model(parse_spec(str(pocket_file)), device="cpu", lora=str(folder), tokenizer="pocket")
    on_folder = load_model(parse_spec("pocket"), device="cpu", lora=str(folder))
    with torch.inference_mode():
        assert torch.equal(on_gguf.model(IDS).logits, on_folder.model(IDS).logits)
        assert not torch.allclose(on_gguf.model(IDS).logits, pocket()(IDS).logits)
