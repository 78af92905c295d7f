"""Tokenizers in GGUF files: the ids of the tokenizer they were made from, or a refusal."""

from __future__ import annotations

import json
import random

import gguf
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from llmapi_kit.errors import ModelError, ModelLoadError, UnsupportedModelError
from llmapi_kit.models.gguf_header import read_header
from llmapi_kit.models.gguf_tokenizer import load_tokenizer
from llmapi_kit.models.spec import parse_spec
from llmapi_kit.models.weights import load_model
from tests.models.gguf_files import write_model

# ruff: noqa: RUF001  (Chinese has punctuation of its own)
CORPUS = [f"The capital of France, number {i * 37}, isn't {100 + i % 3}456 Paris'll. 首都是巴黎！" for i in range(200)]
CONTROL = ("<|begin_of_text|>", "<|eot_id|>", "<\uff5cUser\uff5c>")
USER_DEFINED = ("<think>", "</think>")
TEXTS = (
    "The capital of 1014567 isn't 100456102456 PARIS",
    "  two  spaces\n\n\nand lines\t",
    "你好，世界！ déjà vu e\u0301 🙂 \u0e01\u0e33",
    "a<|eot_id|>b<think>c</think> d<\uff5cUser\uff5c>e",
    "<|endoftext|><|im_start|>",
    "",
)


def trained(rules):
    """A byte-level tokenizer as its makers would ship it."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    if rules == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(GGUF_PRE_TOKENIZER_SPLITS[rules]), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    if rules == "qwen2":
        backend.normalizer = normalizers.NFC()
    if rules == "llama-bpe":
        backend.model.ignore_merges = True
    backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in CONTROL])
    backend.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in USER_DEFINED])
    return backend


def adder(backend, rules, *, change=None, **values):
    """Adds a tokenizer's tables to a file."""

    def add(writer):
        described = json.loads(backend.to_str())
        vocabulary = backend.get_vocab()
        tokens = sorted(vocabulary, key=vocabulary.get)
        kinds = [3 if token in CONTROL else 4 if token in USER_DEFINED else 1 for token in tokens]
        tables = {
            "model": "gpt2",
            "pre": rules,
            "tokens": tokens,
            "token_type": kinds,
            "merges": [" ".join(merge) for merge in described["model"]["merges"]],
            "bos_token_id": vocabulary[CONTROL[0]],
            "eos_token_id": vocabulary[CONTROL[1]],
            **values,
        }
        if change is not None:
            change(tables)
        for key, value in tables.items():
            if isinstance(value, bool):
                writer.add_bool(f"tokenizer.ggml.{key}", value)
            elif isinstance(value, str):
                writer.add_string(f"tokenizer.ggml.{key}", value)
            elif isinstance(value, int):
                writer.add_uint32(f"tokenizer.ggml.{key}", value)
            elif value is not None:
                writer.add_array(f"tokenizer.ggml.{key}", value)

    return add


def model_of(num_tokens):
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=num_tokens,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return transformers.Qwen2ForCausalLM(config).eval().requires_grad_(False)


def written(path, rules="qwen2", *, extra=None, num_rows=None, **options):
    backend = trained("llama-bpe" if rules not in ("gpt-2", "qwen2") else rules)
    model = model_of(num_rows or backend.get_vocab_size() + 3)
    return write_model(path, model, tokenizer=adder(backend, rules, **options), extra=extra)


def load(path):
    header = read_header(path)
    return load_tokenizer(header, header.tensors["token_embd.weight"].shape[0])


@pytest.mark.parametrize("rules", ["llama-bpe", "qwen2", "gpt-2"])
def test_texts_get_the_ids_of_the_tokenizer_the_file_was_made_from(rules, tmp_path):
    own = trained(rules)
    read = load(written(tmp_path / "m.gguf", rules))
    assert len(read) == own.get_vocab_size()
    for text in TEXTS:
        ids = own.encode(text, add_special_tokens=False).ids
        assert read.encode(text, add_special_tokens=False) == ids, text
        assert read.decode(ids) == own.decode(ids, skip_special_tokens=False)
    assert (read.bos_token, read.eos_token, read.pad_token, read.unk_token) == (*CONTROL[:2], None, None)


@pytest.mark.parametrize(("rules", "is_whole"), [("llama-bpe", True), ("qwen2", False)])
def test_a_word_that_is_a_token_is_taken_whole_where_the_model_was_trained_so(rules, is_whole, tmp_path):
    def add_word(tables):
        tables["tokens"] = [*tables["tokens"], "xyzzy"]
        tables["token_type"] = [*tables["token_type"], 1]

    read = load(written(tmp_path / "m.gguf", rules, change=add_word))
    assert (len(read.encode("xyzzy", add_special_tokens=False)) == 1) is is_whole


def test_control_tokens_are_special_and_markers_are_not(tmp_path):
    read = load(written(tmp_path / "m.gguf"))
    special = {str(token) for token in read.added_tokens_decoder.values() if token.special}
    assert special == set(CONTROL)
    assert {str(token) for token in read.added_tokens_decoder.values()} == {*CONTROL, *USER_DEFINED}
    ids = read.encode("a<|eot_id|><think>b", add_special_tokens=False)
    assert read.decode(ids, skip_special_tokens=True) == "a<think>b"


@pytest.mark.parametrize(
    ("rules", "flags", "begins", "ends"),
    [
        ("qwen2", {}, False, False),
        ("llama-bpe", {}, True, False),
        ("llama-bpe", {"add_bos_token": False}, False, False),
        ("qwen2", {"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_a_plain_text_begins_and_ends_as_the_file_says(rules, flags, begins, ends, tmp_path):
    read = load(written(tmp_path / "m.gguf", rules, **flags))
    ids = read.backend_tokenizer.encode("Paris").ids
    assert (ids[0] == read.bos_token_id) is begins
    assert (ids[-1] == read.eos_token_id) is ends
    assert read.encode("Paris") == ids
    assert read.encode("Paris", add_special_tokens=False) == ids[begins : len(ids) - ends]


def without(key):
    return {"change": lambda tables: tables.pop(key)}


def replaced(key, make):
    return {"change": lambda tables: tables.__setitem__(key, make(tables[key]))}


REFUSED = {
    "another kind": ({"model": "llama"}, UnsupportedModelError, "tokenizer="),
    "no kind": (without("model"), UnsupportedModelError, "None"),
    "rules of another model": ({"pre": "deepseek-llm"}, UnsupportedModelError, "deepseek-llm"),
    "rules that are not told": (without("pre"), UnsupportedModelError, "None"),
    "no tokens": (without("tokens"), ModelLoadError, "no list of tokens"),
    "no merges": (without("merges"), ModelLoadError, "merges"),
    "numbers for tokens": (replaced("tokens", lambda tokens: [1, 2, 3]), ModelLoadError, "no list of tokens"),
    "a token twice": (replaced("tokens", lambda tokens: [*tokens[:-1], tokens[0]]), ModelLoadError, "twice"),
    "an empty token": (replaced("tokens", lambda tokens: ["", *tokens[1:]]), ModelLoadError, "empty"),
    "an endless token": (replaced("tokens", lambda tokens: ["x" * 1025, *tokens[1:]]), ModelLoadError, "longer"),
    "more tokens than rows": ({"num_rows": 300}, ModelLoadError, "300 rows"),
    "kinds for some tokens": (replaced("token_type", lambda kinds: kinds[:5]), ModelLoadError, "token_type"),
    "a merge of strangers": (replaced("merges", lambda merges: [*merges, "stran gers"]), ModelLoadError, "stran"),
    "a merge of three": (replaced("merges", lambda merges: ["a b c", *merges]), ModelLoadError, "a b c"),
    "an end past the tokens": ({"eos_token_id": 9999}, ModelLoadError, "9999"),
    "a list of kinds": (replaced("model", lambda model: ["gpt2", "gpt2"]), ModelLoadError, "is a list"),
    "a list of ends": ({"eos_token_id": [1, 2]}, ModelLoadError, "is a list"),
    "a list of flags": ({"add_bos_token": [1, 0]}, ModelLoadError, "is a list"),
    "a beginning that is a text": ({"bos_token_id": "x"}, ModelLoadError, "bos"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_tokenizer_that_is_not_understood_is_refused(case, tmp_path):
    options, error, match = REFUSED[case]
    path = written(tmp_path / "m.gguf", **options)
    with pytest.raises(error, match=match):
        load_model(parse_spec(str(path)), device="cpu")


def test_a_named_tokenizer_stands_in_for_one_that_is_refused(tmp_path):
    path = written(tmp_path / "m.gguf", pre="deepseek-llm")
    good = load(written(tmp_path / "good.gguf"))
    good.save_pretrained(tmp_path / "tokenizer")
    loaded = load_model(parse_spec(str(path)), device="cpu", tokenizer=str(tmp_path / "tokenizer"))
    assert loaded.tokenizer.encode("Paris") == good.encode("Paris")


def test_more_added_tokens_than_anyone_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llmapi_kit.models.gguf_tokenizer.MAX_ADDED_TOKENS", 4)
    with pytest.raises(ModelLoadError, match="5 added tokens"):
        load(written(tmp_path / "m.gguf"))


def test_a_template_that_is_no_text_is_refused(tmp_path):
    path = written(tmp_path / "m.gguf", extra=lambda writer: writer.add_uint32("tokenizer.chat_template", 5))
    with pytest.raises(ModelLoadError, match="chat_template"):
        load(path)


def test_ends_of_a_turn_are_found_by_key_and_by_name(tmp_path):
    loaded = load_model(parse_spec(str(written(tmp_path / "m.gguf"))), device="cpu")
    assert loaded.eos_ids == (loaded.tokenizer.convert_tokens_to_ids("<|eot_id|>"),)
    renamed = replaced("tokens", lambda tokens: ["<|im_end|>" if t == "<|begin_of_text|>" else t for t in tokens])
    loaded = load_model(parse_spec(str(written(tmp_path / "n.gguf", **renamed, eot_token_id=7))), device="cpu")
    names = {loaded.tokenizer.convert_ids_to_tokens(i) for i in loaded.eos_ids}
    assert {"<|eot_id|>", "<|im_end|>"} <= names
    assert 7 in loaded.eos_ids


@pytest.mark.slow
def test_mutated_tables_load_or_say_why_not(tmp_path):
    path = written(tmp_path / "m.gguf")
    whole = path.read_bytes()
    head = min(place.offset for place in read_header(path).tensors.values())
    dice = random.Random(23)
    refused = 0
    for _ in range(400):
        mutated = bytearray(whole)
        for _ in range(dice.choice((1, 2, 6))):
            mutated[dice.randrange(head)] = dice.choice((0, 1, 128, 255, dice.randrange(256)))
        path.write_bytes(mutated)
        try:
            loaded = load_model(parse_spec(str(path)), device="cpu")
        except ModelError:
            refused += 1
        else:
            num_rows = loaded.model.get_input_embeddings().weight.shape[0]
            assert max(loaded.tokenizer.encode("Paris <|eot_id|> 首都")) < num_rows
    assert 150 < refused < 400


def test_the_gguf_package_knows_the_same_kinds_of_tokens():
    assert (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED) == (3, 4)
