"""Loads of GGUF files: options, adapters, parts, memory, and files that contradict themselves."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import gguf
import ipykernel
import numpy as np
import pytest

import llmapi_kit as kit
from llmapi_kit.checkpoints.gguf_file import open_gguf
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.errors import (
    ConfigError,
    ModelError,
    ModelLoadError,
    ModelNotFoundError,
    ModelTooLargeError,
    UnsupportedModelError,
)
from llmapi_kit.loading import gguf_options
from llmapi_kit.loading.gguf_loader import gguf_fit
from llmapi_kit.loading.gguf_options import GgufOptions, parse_options
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.sources import SOURCES
from llmapi_kit.runners.load_trial import try_to_load
from tests.checkpoints.test_gguf_file import put, split
from tests.runners.llama_files import write_tiny

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
WRONG = {
    "device": [("toaster", "'cpu', 'cuda'"), ("cuda:1", "'cpu', 'cuda'"), (0, "not known")],
    "n_gpu_layers": [(-2, "whole number"), (1.5, "whole number"), (True, "whole number"), ("all", "whole number")],
    "flash_attn": [("yes", "True, False"), (1, "True, False")],
    "kv_cache_dtype": [("q3", "'q8_0'"), (8, "'q8_0'")],
    "use_mmap": [("no", "True, False")],
    "use_mlock": [(1, "True, False")],
    "isolate": [("yes", "True, False")],
    "rope_scaling": [("ntk", "'yarn'")],
    "rope_freq_base": [(0, "above 0"), (float("nan"), "above 0"), ("x", "above 0")],
    "rope_freq_scale": [(-1, "above 0")],
    "lora": [("./nowhere", "no LoRA adapter './nowhere'"), (5, "lora=5")],
    "mmproj": [("./nowhere", "no mmproj file './nowhere'"), (True, "mmproj=True"), (5, "mmproj=5")],
    "sampling": [({"heat": 1}, "heat"), (0.7, "dictionary")],
    "dtype": [("float32", "no argument 'dtype'.*models of another kind")],
    "quantize": [("8bit", "no argument 'quantize'")],
    "compile": [(False, "no argument 'compile'")],
}


@pytest.mark.parametrize(("option", "value", "words"), [(name, *case) for name in WRONG for case in WRONG[name]])
def test_an_argument_that_can_not_be_used_is_named_before_anything_is_loaded(option, value, words, pocket_gguf):
    with pytest.raises((ConfigError, ModelNotFoundError), match=words):
        kit.load(str(pocket_gguf), lazy=True, **{option: value})


def test_arguments_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="contradicts device='cpu'"):
        parse_options({"device": "cpu", "n_gpu_layers": 3})
    with pytest.raises(ConfigError, match="needs flash attention"):
        parse_options({"flash_attn": False, "kv_cache_dtype": "q8_0"})
    with pytest.raises(ConfigError, match="is a folder"):
        parse_options({"lora": str(tmp_path)})


def asked(path, settings=None, **options):
    model = Model(make_engine(parse_spec(str(path)), settings or Settings(max_slots=2), **options))
    try:
        return model.info, model.ask(QUESTION, temperature=0, max_tokens=20)
    finally:
        model.close()


@pytest.mark.parametrize(
    "options",
    [
        {"use_mmap": False, "kv_cache_dtype": "q8_0"},
        {"use_mmap": True, "flash_attn": True, "device": "cpu", "rope_freq_base": 10000.0},
        {"isolate": True},
        {"n_gpu_layers": 0, "rope_scaling": "none", "rope_freq_scale": 1.0},
    ],
    ids=lambda options: ", ".join(options),
)
def test_options_change_how_it_is_computed_and_not_the_answer(options, pocket_gguf):
    info, answer = asked(pocket_gguf, **options)
    assert answer == ANSWER
    assert (info.id, info.device, info.dtype) == ("small-one", "cpu", "f32")


def test_positions_that_are_scaled_make_room_for_more_tokens(pocket_gguf):
    info, _ = asked(pocket_gguf, Settings(max_slots=1, context_length=4096), rope_freq_scale=0.5)
    assert info.context_length == 4096
    info, _ = asked(pocket_gguf, Settings(max_slots=1, context_length=4096))
    assert info.context_length == 2048


def test_what_a_load_is_told_goes_before_what_the_file_recommends(tmp_path):
    write_tiny(tmp_path / "m.gguf", extra=put("general.sampling.temp", 0.5, gguf.GGUFValueType.FLOAT32))
    engine = make_engine(parse_spec(str(tmp_path / "m.gguf")), Settings(max_slots=1))
    engine.close()
    assert engine.info.defaults == {"temperature": 0.5}
    engine = make_engine(parse_spec(str(tmp_path / "m.gguf")), Settings(max_slots=1), sampling={"temperature": 0.7})
    engine.close()
    assert engine.info.defaults == {"temperature": 0.7}


def test_a_gpu_that_the_library_can_not_use_is_refused(pocket_gguf):
    with pytest.raises(ConfigError, match=r"computes on the CPU only.*LLMAPI_KIT_LIBLLAMA"):
        asked(pocket_gguf, device="cuda")


def test_a_model_in_several_files_answers_like_the_whole(pocket_gguf, tmp_path):
    parts = split(pocket_gguf, tmp_path, name="pocket")
    info, answer = asked(parts[1])
    assert (info.id, answer) == ("pocket", ANSWER)


def write_adapter(path, size, rank=2, *, seed=0, architecture="llama", extra=None):
    """A LoRA adapter on the queries of the first layer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    if extra is not None:
        extra(writer)
    rng = np.random.default_rng(seed)
    for part, shape in (("a", (rank, size)), ("b", (size, rank))):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{part}", rng.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_an_adapter_changes_the_answer_and_has_to_fit(pocket_gguf, tmp_path):
    width = open_gguf(pocket_gguf).hidden_size
    _, answer = asked(pocket_gguf, lora=write_adapter(tmp_path / "lora.gguf", width))
    assert answer != ANSWER
    with pytest.raises(ModelLoadError, match=r"adapter other\.gguf does not go on small-one\.gguf"):
        asked(pocket_gguf, lora=write_adapter(tmp_path / "other.gguf", width + 32))
    with pytest.raises(UnsupportedModelError, match=r"small-one\.gguf is not a LoRA adapter"):
        asked(pocket_gguf, lora=str(pocket_gguf))


def test_adapters_answer_to_names_of_their_own_beside_the_model(pocket_gguf, tmp_path, monkeypatch):
    for place in ("runners.load_trial", "loading.gguf_adapters"):  # a process for each takes its time
        monkeypatch.setattr(f"llmapi_kit.{place}.try_to_load", lambda path, **options: None)
    width = open_gguf(pocket_gguf).hidden_size
    paths = {name: write_adapter(tmp_path / f"{name}.gguf", width, seed=i) for i, name in enumerate("ab")}
    merged = {name: asked(pocket_gguf, lora=path)[1] for name, path in paths.items()}
    model = Model(make_engine(parse_spec(str(pocket_gguf)), Settings(max_slots=4), lora={"a": paths["a"]}))
    try:
        assert model.adapters.add(paths["b"]) == "small-one:b"
        engines = {"": model.engine, **model.engine.adapters.engines()}
        answers = {name: Model(engine).ask(QUESTION, temperature=0, max_tokens=20) for name, engine in engines.items()}
        assert answers == {"": ANSWER, "small-one:a": merged["a"], "small-one:b": merged["b"]}
        assert len(set(answers.values())) == 3
        assert [(each.name, each.rank) for each in model.adapters.list()] == [("a", 2), ("b", 2)]
        model.adapters.remove("a")
        assert list(model.engine.adapters.engines()) == ["small-one:b"]
    finally:
        model.close()


def test_adapters_that_can_not_be_shared_are_refused_and_the_model_goes_on(pocket_gguf, tmp_path):
    width = open_gguf(pocket_gguf).hidden_size
    engine = make_engine(parse_spec(str(pocket_gguf)), Settings(max_slots=1))
    model = Model(engine)
    tokens = put("adapter.alora.invocation_tokens", 5, gguf.GGUFValueType.UINT32)
    cases = {
        "is an adapter for qwen2": write_adapter(tmp_path / "q.gguf", width, architecture="qwen2"),
        "aLoRA": write_adapter(tmp_path / "t.gguf", width, extra=tokens),
        "is not a LoRA adapter": str(pocket_gguf),
        "does not go on": write_adapter(tmp_path / "w.gguf", width + 32),
        "no LoRA adapter 'nowhere": "nowhere.gguf",
    }
    try:
        for words, path in cases.items():
            with pytest.raises(ModelError, match=words):
                model.adapters.add(path, "x")
        assert (len(model.adapters), model.ask(QUESTION, temperature=0, max_tokens=20)) == (0, ANSWER)
    finally:
        model.close()


def test_a_model_that_does_not_fit_is_refused_with_numbers(pocket_gguf, monkeypatch):
    file = open_gguf(pocket_gguf)
    for is_native in (True, False):
        fit = gguf_fit(file, Settings(native=is_native), GgufOptions())
        assert fit.weights_bytes > pocket_gguf.stat().st_size * 0.98
        settings = Settings(kv_memory=10**8, native=is_native)
        need = SOURCES["gguf"].memory_need(parse_spec(str(pocket_gguf)), settings, {})
        assert need.most_bytes == fit.weights_bytes + fit.step_bytes + 10**8
    quantised = gguf_fit(file, Settings(), GgufOptions(kv_cache_dtype="q8_0"))
    assert quantised.kv_bytes_per_token == fit.kv_bytes_per_token * 34 // 64
    monkeypatch.setattr("llmapi_kit.checkpoints.fit.free_memory", lambda device: 10**6)
    with pytest.raises(ModelTooLargeError, match=r"Weights take .* MiB, each token of context"):
        asked(pocket_gguf)


def test_steps_have_a_process_of_their_own_in_a_kernel_and_not_where_one_is_imported(monkeypatch):
    assert ipykernel.version_info  # as many programs do
    assert not GgufOptions().is_isolated
    monkeypatch.setattr(gguf_options, "is_jupyter_kernel", lambda: True)
    assert GgufOptions().is_isolated
    assert not GgufOptions(isolate=False).is_isolated


def test_a_file_that_llama_cpp_would_abort_on_is_an_error(tmp_path):
    for key, value, kind in (
        ("llama.expert_used_count", 7, gguf.GGUFValueType.UINT32),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, gguf.GGUFValueType.FLOAT32),
    ):
        write_tiny(tmp_path / "m.gguf", extra=put(key, value, kind))
        with pytest.raises(ModelLoadError, match=r"gives up on m\.gguf: .*ASSERT.*Download it again"):
            asked(tmp_path / "m.gguf")
        with pytest.raises(ModelLoadError, match=r"process died: .*ASSERT.*m\.gguf contradicts itself"):
            asked(tmp_path / "m.gguf", isolate=True)


def test_a_trial_passes_good_files_and_those_that_are_refused_in_good_order(pocket_gguf, tmp_path):
    try_to_load(pocket_gguf)
    write_tiny(tmp_path / "m.gguf", extra=put("general.architecture", "nonsense", gguf.GGUFValueType.STRING))
    try_to_load(tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match="unknown model architecture: 'nonsense'"):
        asked(tmp_path / "m.gguf")


MUTATE = """
import json, sys
from pathlib import Path
from llmapi_kit.config import Settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.checkpoints.spec import parse_spec
counts = {}
for path in map(Path, json.loads(sys.stdin.read())):
    try:
        make_engine(parse_spec(str(path)), Settings(max_slots=1, context_length=64)).close()
        name = "loaded"
    except LlmApiKitError as exc:
        name = "refused"
    counts[name] = counts.get(name, 0) + 1
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_mutated_files_load_or_say_why_not_and_nothing_dies(tmp_path):
    write_tiny(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    head = min(place.offset for place in open_gguf(tmp_path / "m.gguf").header.tensors.values())
    dice = random.Random(17)
    accepted = []
    for number in range(300):
        mutated = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 6))):
            mutated[dice.randrange(head)] = dice.choice((0, 1, 128, 255, dice.randrange(256)))
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(mutated)
        try:
            open_gguf(path)
        except ModelError:
            path.unlink()
        else:
            accepted.append(str(path))
    assert 30 < len(accepted) < 200
    done = subprocess.run(
        [sys.executable, "-c", MUTATE], input=json.dumps(accepted[:30]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["loaded"] > 5
    assert counts["refused"] > 2
