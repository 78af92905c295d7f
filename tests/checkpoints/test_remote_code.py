"""Code that comes with a model runs where it is said to be trusted, and in no other case."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
import torch

import llmapi_kit as kit
from llmapi_kit.checkpoints.remote_code import check_code
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError, ModelLoadError, UnsupportedModelError
from llmapi_kit.loading.load_request import resolve
from llmapi_kit.sampling.parameters import SamplingParams
from tests.checkpoints.own_code import write_own_code
from tests.engines.conftest import collect

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def own_code(tmp_path_factory):
    """(folder, the same model without the kit)."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield folder, write_own_code(folder)


def test_a_model_with_its_own_code_answers_as_its_own_generate(own_code, caplog):
    folder, reference = own_code
    with caplog.at_level(logging.WARNING):
        model = kit.load(folder, trust_remote_code=True, max_slots=2)
    try:
        assert "configuration_own.py, modeling_own.py. It can read, change" in caplog.text
        prompts = [[5, 6, 7, 8, 9, 10, 11, 12], [300, 2, 40]]

        async def ask():
            sampling = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=0)
            requests = [GenerationRequest(prompt=ids, sampling=sampling) for ids in prompts]
            return await asyncio.gather(*(collect(model.engine.generate(request)) for request in requests))

        for ids, (_, events) in zip(prompts, asyncio.run(ask()), strict=True):
            with torch.inference_mode():
                expected = reference.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, pad_token_id=0)
            said = [token.token_id for event in events for token in getattr(event, "logprobs", None) or ()]
            assert said == expected[0, len(ids) :].tolist()
    finally:
        model.close()


def test_without_being_trusted_its_code_does_not_run_and_the_option_is_named(own_code, monkeypatch):
    folder, _ = own_code
    monkeypatch.setenv("LLMAPI_KIT_TRUST_REMOTE_CODE", "1")
    for options in ({}, {"trust_remote_code": False}):
        with pytest.raises(
            UnsupportedModelError, match=r"only with trust_remote_code=True, an argument of kit.load\(\)"
        ):
            kit.load(folder, **options)


def test_a_model_of_the_hub_is_trusted_in_one_version_only():
    for revision in (None, "main", "v1.0", COMMIT[:12]):
        with pytest.raises(ConfigError, match="all 40 digits"):
            resolve("owner/name", given={"trust_remote_code": True, "revision": revision})
    assert resolve("owner/name", given={"trust_remote_code": True, "revision": COMMIT}).spec.kind == "hub"
    with pytest.raises(ConfigError, match="must be True or False"):
        resolve("owner/name", given={"trust_remote_code": "yes"})
    with pytest.raises(ConfigError, match="no argument 'trust_remote_code'"):
        kit.launch("mock", trust_remote_code=True)


@pytest.mark.parametrize("reference", ["other/repository--modeling_x.Model", "../above.Model", "a.b.Model", "plain"])
def test_code_from_elsewhere_is_refused(reference, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": reference}}))
    with pytest.raises(UnsupportedModelError, match="takes code from elsewhere"):
        check_code(tmp_path, "it")


def test_code_of_a_tokenizer_counts_and_missing_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "configuration_x.Config"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["slow_x.T", None]}}))
    (tmp_path / "configuration_x.py").write_text("")
    with pytest.raises(ModelLoadError, match=r"names code in slow_x\.py, which is not among its files"):
        check_code(tmp_path, "it")
    (tmp_path / "slow_x.py").write_text("")
    assert check_code(tmp_path, "it") == ["configuration_x.py", "slow_x.py"]
    assert check_code(POCKET_DIR, "pocket") == []


def test_trust_changes_nothing_for_a_model_without_code(caplog):
    with caplog.at_level(logging.WARNING):
        trusted = resolve("pocket", given={"trust_remote_code": True})
    assert trusted.need().least_bytes == resolve(parse_spec("pocket").name).need().least_bytes
    assert "code of its own" not in caplog.text
