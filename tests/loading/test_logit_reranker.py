"""Decoders that score pairs by the logits of two tokens, as sentence-transformers' `LogitScore` does."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import ScoreRequest, Truncation
from llmapi_kit.errors import ContextLengthError, ModelLoadError, UnsupportedModelError
from llmapi_kit.loading.load_request import make_engine, resolve
from tests.loading.embedding_folders import write

TEMPLATE = """{% set of = messages | selectattr("role", "eq", "system") | map(attribute="content") | list -%}
{{ of[0] if of else "Judge." }} Q: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
D: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}
{{ "Yes or no?" if asks else "" }}"""
PAIRS = [("capital of France?", "Paris is the capital of France."), ("cats", "Dogs bark. " * 3), ("x", "")]
YES, NO = 327, 1955
TYPES = "sentence_transformers."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("reranker")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=3072, **sizes, **heads))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(made)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_DIR / name, made)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    types = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
    paths = ("", "1_LogitScore")
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": TYPES + kind}
        for at, (path, kind) in enumerate(zip(paths, types, strict=True))
    ]
    write(made / "modules.json", modules)
    score = {"true_token_id": YES, "false_token_id": NO, "module_input_name": "causal_logits"}
    write(made / "1_LogitScore" / "config.json", score)
    way = {"method": "forward", "method_output_name": "logits"}
    given = {
        "transformer_task": "text-generation",
        "modality_config": {"text": way, "message": {**way, "format": "flat"}},
        "module_output_name": "causal_logits",
        "processing_kwargs": {"chat_template": {"asks": True}},
    }
    write(made / "sentence_bert_config.json", given)
    prompts = {"prompts": {"web": "Find pages."}, "default_prompt_name": "web", "model_type": "CrossEncoder"}
    write(made / "config_sentence_transformers.json", prompts)
    return made


@pytest.fixture(scope="module")
def engine(folder):
    made = resolve(folder, given={"device": "cpu"}).make()
    yield made
    made.close()


def by_transformers(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([each])).logits[0, -1] for each in ids]
    return [torch.sigmoid(row[YES] - row[NO]).item() for row in logits]


def rendered(folder, prompt="Find pages."):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [f"{prompt} Q: {query}\nD: {document}\nYes or no?" for query, document in PAIRS]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def score(engine, pairs=PAIRS, **options):
    return asyncio.run(engine.score(ScoreRequest(pairs=pairs, **options)))


def test_pairs_of_several_lengths_get_the_scores_of_each_alone(engine, folder):
    ids = rendered(folder)
    assert len({len(each) for each in ids}) == 3
    found = score(engine)
    assert [each.value for each in found] == pytest.approx(by_transformers(folder, ids), abs=1e-5)
    assert [each.num_tokens for each in found] == [len(each) for each in ids]
    assert engine.info.capabilities == ("rerank",)


def test_a_pair_that_is_cut_keeps_what_the_template_puts_after_it(engine, folder):
    (whole, *_), limit = rendered(folder), 24
    tail = [token for text in ("\nYes or no?",) for token in asyncio.run(engine.tokenize(text))]
    cut = [*whole[: limit - len(tail)], *tail]
    assert whole[-len(tail) :] == tail
    assert len(whole) > limit
    found = score(engine, PAIRS[:1], truncation=Truncation(num_tokens=limit))
    assert found[0].value == pytest.approx(by_transformers(folder, [cut])[0], abs=1e-5)
    with pytest.raises(ContextLengthError, match=r"64 tokens at most; documents\.0 has"):
        score(engine, [("q", "word " * 80)])


def changed(folder, target, file, **values):
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return target


@pytest.mark.parametrize(
    ("file", "values", "error", "words"),
    [
        ("1_LogitScore/config.json", {"true_token_id": 5000}, ModelLoadError, "not in the vocabulary"),
        (
            "1_LogitScore/config.json",
            {"module_input_name": "scores"},
            UnsupportedModelError,
            "LogitScore reads 'scores'",
        ),
        ("sentence_bert_config.json", {"transformer_task": "any-to-any"}, UnsupportedModelError, "text-generation"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, UnsupportedModelError, "nothing else in"),
        ("tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"}, UnsupportedModelError, "leaves out"),
    ],
)
def test_what_would_score_otherwise_is_refused_by_name(folder, tmp_path, file, values, error, words):
    other = changed(folder, tmp_path / "other", file, **values)
    if file == "tokenizer_config.json":
        (other / "chat_template.jinja").unlink()
    with pytest.raises(error, match=words):
        make_engine(parse_spec(other), Settings(), device="cpu")
