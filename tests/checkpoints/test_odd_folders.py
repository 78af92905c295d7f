"""No exception but the kit's own leaves `kit.load`, whatever the folder; it names the file and says what it is."""

from __future__ import annotations

import math
import os
import shutil

import pytest
import torch

from llmapi_kit import kit
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, ModelNotFoundError, UnsupportedModelError
from tests.checkpoints.odd_folders import (
    EMBEDDING,
    INDEX,
    NORM,
    PAGE,
    POINTER,
    WEIGHTS,
    as_folder,
    as_link_to,
    both,
    config,
    cut,
    header,
    kind,
    make_small,
    only,
    sharded,
    tensors,
    without,
    written,
)

POINTED = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
# What stands in place of a file: the damage, and the essential words
STAND_INS = {
    f"{what} in place of {name}": (written(name, content), ModelLoadError, rf"{name} is {words}")
    for name in (*POINTED, "chat_template.jinja", "vocab.json", "merges.txt", "special_tokens_map.json")
    for what, content, words in (
        ("a pointer", POINTER, r"a Git LFS pointer, not the file itself. Run `git lfs pull` in .*odd"),
        ("a page", PAGE, "an HTML page"),
        ("nothing", b"", "empty"),
    )
}
FILES = {
    "a pointer in place of the index": (both(only(INDEX, POINTER)), ModelNotFoundError, "safetensors"),
    "a pointer in place of a shard": (
        both(sharded("a.safetensors", "b.safetensors"), written("b.safetensors", POINTER)),
        ModelLoadError,
        r"b\.safetensors is a Git LFS pointer",
    ),
    "a pointer in place of an index with shards": (
        both(sharded("a.safetensors"), written(INDEX, POINTER)),
        ModelLoadError,
        r"index\.json is a Git LFS pointer",
    ),
    "an error of a store in place of weights": (
        written(WEIGHTS, '<?xml version="1.0"?><Error/>'),
        ModelLoadError,
        "an XML page",
    ),
    "an error in JSON in place of weights": (
        written(WEIGHTS, '{"error": "Repository not found"}'),
        ModelLoadError,
        r"model\.safetensors is not a safetensors file: it begins with",
    ),
    "a pickle under another name": (written(WEIGHTS, b"PK\3\4" * 100), ModelLoadError, r"ZIP archive, as torch\.save"),
    "weights cut in the middle": (cut(WEIGHTS, -1000), ModelLoadError, r"model\.safetensors is cut off: it has .* of"),
    "weights cut in their header": (cut(WEIGHTS, 100), ModelLoadError, r"model\.safetensors is cut off"),
    "weights of four bytes": (cut(WEIGHTS, 4), ModelLoadError, "not a safetensors file"),
    "weights with more at their end": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"more"),
        ModelLoadError,
        "its header tells of",
    ),
    "a header that is a list": (written(WEIGHTS, b"\x08" + b"\0" * 7 + b"{       "), ModelLoadError, "damaged"),
    "a header that lies about a shape": (
        header(lambda entries: entries[NORM].update(shape=[999])),
        ModelLoadError,
        rf"damaged.*'{NORM}' has another size",
    ),
    "a header with offsets that are none": (
        header(lambda entries: entries[NORM].update(data_offsets=[-1, 3])),
        ModelLoadError,
        rf"damaged.*'{NORM}' is not valid",
    ),
    "a shard that is not there": (
        sharded("model-1.safetensors", "model-2.safetensors"),
        ModelLoadError,
        r"lacks 1 of 2 files of weights .* model-2\.safetensors",
    ),
    "an index without a map": (sharded("a.safetensors", weight_map=[]), ModelLoadError, "no weight_map"),
    "an index that leads out of the folder": (
        sharded("a.safetensors", weight_map={NORM: "../../etc/passwd"}),
        ModelLoadError,
        "'../../etc/passwd', which is not a file of this folder",
    ),
    "only pickles": (only("pytorch_model.bin"), UnsupportedModelError, r"pytorch_model\.bin.*run code"),
    "no weights": (without(WEIGHTS), ModelNotFoundError, "safetensors"),
    "weights under another name": (only("weights.safetensors"), ModelNotFoundError, r"only weights\.safetensors"),
    "an adapter": (written("adapter_config.json", "{}"), UnsupportedModelError, "LoRA adapter.*lora="),
    "only GGUF files": (
        both(without("config.json"), written("m.gguf", b"GGUF")),
        ModelNotFoundError,
        r"name the one to load.*m\.gguf",
    ),
    "no config": (without("config.json"), ModelNotFoundError, r"no config\.json"),
    "a folder in place of the config": (as_folder("config.json"), ModelLoadError, r"config\.json is a folder"),
    "a folder in place of weights": (as_folder(WEIGHTS), ModelLoadError, r"model\.safetensors is a folder"),
    "a folder in place of the tokenizer": (as_folder("tokenizer.json"), ModelLoadError, r"tokenizer\.json is a folder"),
    "a broken link in place of weights": (
        as_link_to(WEIGHTS, "../blobs/4d7a"),
        ModelLoadError,
        r"model\.safetensors is a link to .*4d7a, which is not there",
    ),
    "a broken link in place of the config": (as_link_to("config.json", "x"), ModelLoadError, "is a link to x"),
    "a link to itself": (as_link_to("config.json", "config.json"), ModelLoadError, r"config\.json can't be read"),
    "a config cut off": (cut("config.json", 80), ModelLoadError, r"config\.json can't be read: it is not JSON"),
    "a tokenizer cut off": (cut("tokenizer.json", 9000), ModelLoadError, r"tokenizer\.json can't be read"),
    "advice cut off": (cut("generation_config.json", 20), ModelLoadError, r"generation_config\.json can't be read"),
    "a config that is a list": (written("config.json", "[]"), ModelLoadError, "holds a list, not a JSON object"),
    "a config in Latin-1": (written("config.json", b'{"a": "\xe9"}'), ModelLoadError, "not UTF-8 at byte 7"),
    "a config with a mark": (written("config.json", b"\xef\xbb\xbf{}"), ModelLoadError, "BOM"),
    "a config of NUL bytes": (written("config.json", b"\0" * 700), ModelLoadError, "not JSON"),
    "a config that is too deep": (written("config.json", '{"a":' * 90_000), ModelLoadError, r"config\.json can't be"),
    "no tokenizer": (without("tokenizer.json"), ModelNotFoundError, "no tokenizer.*tokenizer="),
    "a tokenizer that is none": (written("tokenizer.json", '{"model": 5}'), ModelLoadError, "The tokenizer of .*odd"),
    "an empty tokenizer": (written("tokenizer.json", "{}"), ModelLoadError, "The tokenizer of .*odd"),
    "a tokenizer's settings that are a list": (written("tokenizer_config.json", "[]"), ModelLoadError, "holds a list"),
    "a template that can't be parsed": (
        written("chat_template.jinja", "{% for m in messages %}"),
        ModelLoadError,
        "The chat template of .*odd is damaged at line 1",
    ),
}
KINDS = {
    name: (kind(model_type, name, **values), UnsupportedModelError, f"can't be served: {name} is .*{words}.*LlamaFor")
    for model_type, name, words, values in (
        ("bert", "BertForMaskedLM", "fills in masked words", {}),
        ("roberta", "RobertaForCausalLM", "encoder unless is_decoder", {}),
        ("t5", "T5ForConditionalGeneration", "encoder-decoder", {"is_encoder_decoder": True}),
        ("bart", "BartForConditionalGeneration", "encoder-decoder", {"is_encoder_decoder": True}),
        ("reformer", "ReformerModelWithLMHead", "random hashes", {"is_decoder": True}),
        ("vit", "ViTForImageClassification", "classifier", {}),
        ("llama", "LlamaForSequenceClassification", "reward model", {}),
        ("qwen2", "Qwen2ForRewardModel", "reward model", {}),
        ("llama", "LlamaForTokenClassification", "classifier", {}),
        ("mistral", "MistralModel", "without an output layer", {}),
        (
            "llava",
            "LlavaForConditionalGeneration",
            "images and sound, which are not",
            {"vision_config": {"a": 1}, "audio_config": {"a": 1}},
        ),
        ("gemma3", "Gemma3ForConditionalGeneration", "video, which", {"video_config": {"a": 1}}),
        ("whisper", "WhisperForConditionalGeneration", "encoder-decoder", {"is_encoder_decoder": True}),
        ("wav2vec2", "Wav2Vec2ForCTC", "speech", {}),
        ("clip", "CLIPModel", "without an output layer", {}),
    )
}
CONFIGS = {
    "no type": (config(model_type=None), ModelLoadError, "has no model_type"),
    "a type that nobody knows": (config(model_type="unheard-of"), ModelLoadError, r"config\.json can't be used"),
    "code of its own": (
        config(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
        UnsupportedModelError,
        "code of its own",
    ),
    "an encoder's type and no architecture": (
        kind("bert", None),
        (ModelLoadError, UnsupportedModelError),
        "architectures|'bert'",
    ),
    "architectures that are text": (config(architectures="Llama"), ModelLoadError, "must be a list of names"),
    "a vocabulary in words": (config(vocab_size="many"), ModelLoadError, r"config\.json.*vocab_size"),
    "a list for a size": (config(hidden_size=[16]), ModelLoadError, r"config\.json.*hidden_size"),
    "layers below zero": (config(num_hidden_layers=-2), ModelLoadError, "num_hidden_layers is -2"),
    "no heads": (config(num_attention_heads=0), ModelLoadError, r"config\.json"),
    "no key-value heads": (config(num_key_value_heads=0), ModelLoadError, "num_key_value_heads is 0"),
    "heads that don't divide": (config(num_attention_heads=3, num_key_value_heads=2), ModelLoadError, r"config\.json"),
    "a million million layers": (config(num_hidden_layers=10**12), ModelLoadError, "num_hidden_layers"),
    "a million layers": (config(num_hidden_layers=10**6), ModelLoadError, "1,000,000 layers, and the weights have"),
    "a number of 5,000 digits": (
        lambda folder: (folder / "config.json").write_text(f'{{"model_type": "llama", "vocab_size": {"9" * 5000}}}'),
        ModelLoadError,
        r"config\.json can't be read",
    ),
    "a far larger model": (config(intermediate_size=10**7), ModelLoadError, "describes a model of .* parameters"),
    "another vocabulary": (config(vocab_size=4000), ModelLoadError, r"\(3072, 16\) and should be \(4000, 16\)"),
    "another width": (config(intermediate_size=32), ModelLoadError, r"6 tensors have another shape .* and 3 more"),
    "fewer layers than weights": (config(num_hidden_layers=1), ModelLoadError, "9 tensors have no place in the model"),
}
WEIGHT = {
    "no embedding": (tensors(lambda all_: all_.pop(EMBEDDING)), ModelLoadError, rf"1 .* missing \({EMBEDDING}\)"),
    "no norm": (tensors(lambda all_: all_.pop(NORM)), ModelLoadError, rf"1 tensor is missing \({NORM}\)"),
    "a value head": (
        tensors(lambda all_: all_.update({"v_head.weight": torch.ones(3)})),
        ModelLoadError,
        r"1 tensor has no place in the model \(v_head\.weight\)",
    ),
    "a tensor of another shape": (
        tensors(lambda all_: all_.update({NORM: torch.ones(3)})),
        ModelLoadError,
        rf"another shape \({NORM} is \(3,\) and should be \(16,\)",
    ),
    "no tensors": (tensors(lambda all_: all_.clear()), ModelLoadError, "2 layers, and the weights have 0 tensors"),
    "values that are none": (
        tensors(lambda all_: all_.update({NORM: torch.full((16,), math.nan)})),
        ModelLoadError,
        rf"the weight {NORM} has values that are not finite numbers",
    ),
}
ODD = STAND_INS | FILES | KINDS | CONFIGS | WEIGHT


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model of 0.2 MB that is as it should be."""
    return make_small(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture
def odd(small, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(small, tmp_path / "odd")


def test_there_are_many_of_them():
    assert len(ODD) >= 45 + len(STAND_INS)


@pytest.mark.parametrize("case", sorted(ODD))
def test_an_odd_folder_is_an_error_that_says_what_it_is(case, odd):
    damage, error, words = ODD[case]
    damage(odd)
    with pytest.raises(error, match=f"(?s){words}"):
        kit.load(odd, device="cpu")


@pytest.mark.parametrize(
    "case", sorted(case for case in STAND_INS | KINDS if not case.endswith(("ForCausalLM", "WithLMHead")))
)
def test_what_a_file_is_not_shows_before_anything_is_loaded(case, odd):
    damage, error, words = ODD[case]
    damage(odd)
    with pytest.raises(error, match=f"(?s){words}"):
        kit.load(odd, lazy=True)


@pytest.mark.parametrize(
    "damage",
    [
        tensors(lambda all_: all_.update({"lm_head.weight": all_[EMBEDDING].clone()})),
        tensors(lambda all_: all_.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})),
        config(architectures=None),
        written("README.md", POINTER),
        written("pytorch_model.bin", POINTER),
        written("consolidated.safetensors", POINTER),
        sharded("model-1.safetensors"),
    ],
    ids=[
        "a tied output layer",
        "old rotary buffers",
        "no architecture",
        "a pointer that nobody reads",
        "a pickle that nobody reads",
        "other weights that nobody reads",
        "one shard",
    ],
)
def test_harmless_oddities_load(damage, odd):
    damage(odd)
    assert load_model(parse_spec(odd), device="cpu").eos_ids == (2,)


def test_a_file_that_may_not_be_read_is_named(odd, monkeypatch):
    opened = type(odd).open

    def refuse(path, *arguments, **options):
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(type(odd), "open", refuse)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors can't be read: Permission denied"):
        kit.load(odd, device="cpu")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/model", "a\0b", "model\n"])
def test_a_name_that_no_file_can_have_is_not_found(name):
    with pytest.raises(ModelNotFoundError):
        kit.load(name)


@pytest.mark.parametrize(
    ("content", "words"),
    [(POINTER, "Git LFS pointer"), (PAGE, "HTML page"), (b"", "empty"), (b"GGUF\3\0\0\0", "damaged"), (b"x", "GGUF")],
    ids=["pointer", "page", "empty", "truncated", "something else"],
)
def test_an_odd_gguf_file_says_what_it_is(content, words, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=rf"m\.gguf is .*{words}"):
        kit.load(path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pointer_in_place_of_an_adapters_file_says_so(name, odd, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for each in ("adapter_config.json", "adapter_model.safetensors"):
        written(each, POINTER if each == name else "{}")(adapter)
    with pytest.raises(ModelLoadError, match=rf"{name} is a Git LFS pointer"):
        kit.load(odd, device="cpu", lora=adapter)


def test_another_tokenizer_stands_in_for_one_that_is_a_pointer(odd):
    written("tokenizer.json", POINTER)(odd)
    assert len(load_model(parse_spec(odd), device="cpu", tokenizer="pocket").tokenizer) == 3072
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is a Git LFS pointer"):
        kit.load("pocket", device="cpu", tokenizer=odd)


def test_what_a_library_raises_becomes_an_error_of_the_kit(odd, monkeypatch):
    def fail(*arguments, **options):
        raise AttributeError("no such thing")

    monkeypatch.setattr("llmapi_kit.runners.native.runner.NativeRunner.__init__", fail)
    with pytest.raises(LlmApiKitError, match="AttributeError: no such thing"):
        kit.load(os.fspath(odd), device="cpu")
