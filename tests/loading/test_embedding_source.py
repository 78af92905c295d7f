"""Embedding models and rerankers from folders: each vector is what transformers' own forward pass and the stated
pooling give, one text at a time and without padding."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from llmapi_kit import kit
from llmapi_kit.errors import (
    ConfigError,
    ContextLengthError,
    InvalidRequestError,
    ModelLoadError,
    UnsupportedModelError,
)

from .embedding_folders import TYPES, add_dense, add_modules, make_bert, make_decoder, write

TEXTS = ["the dog", "a small cat sleeps in the sun and the river runs", "hello", "我喜欢吃苹果 and tea", "the the the"]
POOLING = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}


@pytest.fixture(autouse=True)
def no_model_stays():
    yield
    kit.stop_all()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def folder(bert, tmp_path):
    """A copy of it, to be changed."""
    import shutil

    return shutil.copytree(bert, tmp_path / "copy")


def states(folder, texts=TEXTS, auto=transformers.AutoModel):
    """The states of each text's tokens, alone."""
    model, tokenizer = auto.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([tokenizer.backend_tokenizer.encode(t).ids])).last_hidden_state[0]
            for t in texts
        ]


def assert_equal(vectors, want):
    torch.testing.assert_close(torch.tensor(vectors), torch.stack(list(want)), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_plain_encoder_is_recognised_and_its_states_are_averaged(bert):
    model = kit.load(bert)
    assert_equal(model.embed(TEXTS), (normalize(each.mean(0), dim=0) for each in states(bert)))
    assert model.info.capabilities == ("embeddings", "rerank")
    assert (model.info.context_length, model.info.embedding_size) == (48, 16)
    assert kit.load_embeddings(bert) is model
    cls = kit.load_embeddings(bert, pooling="cls", normalize=False)
    assert_equal(cls.embed(TEXTS), (each[0] for each in states(bert)))


def test_a_folder_of_sentence_transformers_says_pooling_layers_prompts_and_length(folder):
    add_modules(
        folder, "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize", Pooling={**POOLING, "include_prompt": False}
    )
    linear = add_dense(folder, "2_Dense", (16, 8), activation_function="torch.nn.modules.activation.GELU")
    write(folder / "3_LayerNorm" / "config.json", {"dimension": 8})
    save_file(
        {"norm.weight": torch.arange(1.0, 9.0), "norm.bias": torch.ones(8)}, folder / "3_LayerNorm/model.safetensors"
    )
    write(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    prompts = {"query": "find what is near : ", "document": ""}
    write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "document"})
    model = kit.load(folder)

    def after(pooled):
        activated = torch.nn.functional.gelu(linear(pooled))
        return normalize(torch.nn.functional.layer_norm(activated, (8,), torch.arange(1.0, 9.0), torch.ones(8)), dim=0)

    with torch.inference_mode():
        assert_equal(model.embed(TEXTS), (after(each.mean(0)) for each in states(folder)))
        prompted = states(folder, [prompts["query"] + text for text in TEXTS])
        num_prompt = 6  # [CLS] and five words
        assert_equal(model.embed(TEXTS, prompt_name="query"), (after(each[num_prompt:].mean(0)) for each in prompted))
    assert (model.info.embedding_size, model.info.prompts) == (8, ("query", "document"))
    with pytest.raises(ContextLengthError, match="20 tokens at most"):
        model.embed("the " * 30)
    assert len(model.embed("the " * 30, truncate=True)) == 8


def test_a_decoder_gives_the_state_of_its_last_token(tmp_path):
    folder = make_decoder(tmp_path / "decoder")
    with pytest.raises(UnsupportedModelError, match="LlamaModel is a model without an output layer"):
        kit.load(folder)
    model = kit.load_embeddings(folder, matryoshka_dimensions=[8, 4])
    assert_equal(model.embed(TEXTS), (normalize(each[-1], dim=0) for each in states(folder)))
    assert model.info.capabilities == ("embeddings", "dimensions", "rerank")
    assert model.info.embedding_sizes == (4, 8)
    with pytest.raises(InvalidRequestError, match=r"input\.1 is empty"):
        model.embed(["the", ""])


@pytest.mark.parametrize("kind", ["sentence-transformers", "model2vec"])
def test_word_vectors_are_averaged(kind, tmp_path):
    import shutil

    from llmapi_kit.checkpoints.spec import POCKET_EMBED_DIR

    folder = tmp_path / "static"
    folder.mkdir()
    shutil.copy(POCKET_EMBED_DIR / "tokenizer.json", folder)
    torch.manual_seed(3)
    num = load_file(POCKET_EMBED_DIR / "model.safetensors")["embeddings"].shape[0]
    table = torch.randn(num, 6)
    if kind == "model2vec":
        mapping, weights = torch.arange(num).flip(0), torch.rand(num)
        stored = {"embeddings": table, "mapping": mapping, "weights": weights}
        save_file(stored, folder / "model.safetensors")
        write(folder / "config.json", {"model_type": "model2vec", "normalize": True})
        table = table[mapping] * weights[:, None]
    else:
        save_file({"embedding.weight": table}, folder / "model.safetensors")
        add_modules(folder, first="StaticEmbedding")
    model = kit.load(folder)
    encode = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    want = [table[encode(text, add_special_tokens=False)["input_ids"]].mean(0) for text in TEXTS]
    assert_equal(model.embed(TEXTS), (normalize(each, dim=0) if kind == "model2vec" else each for each in want))


def test_a_reranker_scores_pairs_as_its_own_forward_pass_does(tmp_path):
    folder = make_bert(tmp_path / "reranker", "BertForSequenceClassification", num_labels=1)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    query, *documents = TEXTS

    def score(document):
        pair = backend.encode(query, document)
        inputs = {"input_ids": torch.tensor([pair.ids]), "token_type_ids": torch.tensor([pair.type_ids])}
        return loaded(**inputs).logits[0].sigmoid()

    model = kit.load(folder)
    ranked = model.rerank(query, documents)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    with torch.inference_mode():
        assert_equal([[each.score] for each in ranked], (score(each.text) for each in ranked))
    assert model.rerank(query, documents, top_n=1) == ranked[:1]
    assert (model.info.capabilities, model.info.embedding_size) == (("rerank",), 0)
    with pytest.raises(ConfigError, match="scores pairs of texts"):
        kit.load(folder, normalize=True)


REFUSED = {
    "a module that is not known": (["Pooling", "CNN"], {}, UnsupportedModelError, "models.CNN. Known are"),
    "no pooling": (["Normalize"], {}, UnsupportedModelError, "no Pooling after the Transformer"),
    "a way of pooling that is not known": (
        ["Pooling"],
        {"Pooling": {"pooling_mode": "attention"}},
        UnsupportedModelError,
        "'attention' is not known",
    ),
    "a layer on each token": (
        ["Pooling", "Dense"],
        {"Pooling": POOLING, "Dense": {"module_input_name": "token_embeddings"}},
        UnsupportedModelError,
        "works on each token",
    ),
    "an activation of its own": (
        ["Pooling", "Dense"],
        {"Pooling": POOLING, "Dense": {"activation_function": "own.code.Act"}},
        UnsupportedModelError,
        "'own.code.Act' is not known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_served_is_refused_before_it_is_loaded(case, folder):
    kinds, files, error, words = REFUSED[case]
    add_modules(folder, *kinds, **files)
    with pytest.raises(error, match=words):
        kit.load(folder, lazy=True)


MODULES = {
    "code of its own": ([{"type": "custom_st.Transformer", "path": ""}], UnsupportedModelError, "code of its own"),
    "a folder elsewhere": (
        [{"type": f"{TYPES}Transformer", "path": "../x"}],
        ModelLoadError,
        "not in the model's folder",
    ),
    "no list": ({}, ModelLoadError, "must be a list"),
    "no type": ([{}], ModelLoadError, "entry without type"),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_can_not_be_read_are_told(case, folder):
    modules, error, words = MODULES[case]
    write(folder / "modules.json", modules)
    with pytest.raises(error, match=words):
        kit.load(folder)


def test_weights_that_do_not_belong_to_it_are_told_and_pickles_are_not_read(folder):
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "num_hidden_layers": 3})
    with pytest.raises(ModelLoadError, match=r"are missing \(encoder\.layer\.2"):
        kit.load_embeddings(folder)
    write(folder / "config.json", {**config, "architectures": ["BertForSequenceClassification"], "num_labels": 3})
    with pytest.raises(UnsupportedModelError, match="3 labels, so it is a classifier"):
        kit.load_embeddings(folder)
    write(folder / "config.json", config)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="pickle weights"):
        kit.load_embeddings(folder)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("pooling", "middle", "pooling='middle' is not known. Use one of cls"),
        ("normalize", "yes", "True or False"),
        ("prompts", ["query: "], "dictionary"),
        ("default_prompt_name", "query", "the prompts are none"),
        ("matryoshka_dimensions", 64, "list"),
        ("lora", "./x", "goes with models of another kind"),
    ],
)
def test_options_that_can_not_be_used_are_named_before_anything_is_loaded(option, value, words, bert):
    with pytest.raises(ConfigError, match=words):
        kit.load_embeddings(bert, lazy=True, **{option: value})
