"""What `kit.load` is told is looked at before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmapi_kit import kit
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from llmapi_kit.loading import sources
from llmapi_kit.loading.load_request import resolve

WRONG = {
    "device": [("toaster", "'cpu', 'cuda' or"), (3, "'cpu', 'cuda' or"), ("cuda:x", "not known")],
    "dtype": [("int3", "float32, bfloat16, float16"), (32, "float32, bfloat16, float16")],
    "quantize": [("3bit", "'int8' or 'int4' on a CPU, '8bit'"), (8, "'8bit'")],
    "kv_cache_dtype": [("fp4", "float32, bfloat16, int8"), (8, "kv_cache_dtype=8")],
    "lora": [("./nowhere", "no LoRA adapter './nowhere'"), ("", "no LoRA adapter"), (5, "lora=5")],
    "tokenizer": [("./nowhere", "no tokenizer './nowhere'"), ("", "no tokenizer"), ([], r"tokenizer=\[\]")],
    "sampling": [
        ({"heat": 1}, "heat"),
        ({"temperature": 5}, "temperature is 5"),
        ({"temperature": "hot"}, "can't be used"),
        ({"temperature": True}, "must be a number"),
        ({"top_k": 2.5}, "whole number"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ([("temperature", 1)], "dictionary"),
        (0.7, "dictionary"),
    ],
    "max_slots": [(0, "max_slots"), ("many", "max_slots")],
    "context_length": [(-1, "context_length")],
    "num_threads": [(-1, "num_threads")],
    "served_name": [("", "served_name"), (" ", "served_name"), (7, "served_name"), ("a\nb", "served_name")],
    "fallback": [("./nowhere", "no model './nowhere'"), (5, "fallback has int"), (["pocket", None], "NoneType")],
    "heat": [(1, "no argument 'heat'")],
}


@pytest.fixture
def nothing_loads(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("something was loaded")

    monkeypatch.setattr("llmapi_kit.loading.loader.ModelLoader.make_engine", fail)
    monkeypatch.setattr("llmapi_kit.loading.sources.LocalSource.memory_need", fail)


@pytest.mark.parametrize("lazy", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("option", "value", "words"), [(option, *case) for option, cases in WRONG.items() for case in cases]
)
def test_an_argument_that_can_not_be_used_is_named_before_anything_is_loaded(option, value, words, lazy, nothing_loads):
    with pytest.raises((ConfigError, ModelNotFoundError), match=words):
        kit.load("pocket", lazy=lazy, **{option: value})


def test_a_folder_that_is_no_adapter_is_told_at_once(tmp_path, nothing_loads):
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        kit.load("pocket", lora=tmp_path)


@pytest.mark.parametrize(
    ("device", "quantize", "words"),
    [
        ("cpu", "8bit", "needs a GPU.* use quantize='int8'"),
        ("cpu", "4bit", "needs a GPU.* use quantize='int4'"),
        ("cuda", "int4", "on a CPU. On a GPU, use quantize='4bit'"),
    ],
)
def test_a_format_of_the_other_device_is_refused_at_once_with_its_counterpart(device, quantize, words, nothing_loads):
    with pytest.raises(ConfigError, match=words):
        kit.load("pocket", device=device, quantize=quantize)


def test_keys_and_values_have_no_format_of_their_own_on_a_gpu(nothing_loads):
    with pytest.raises(ConfigError, match="for models on a CPU"):
        kit.load("pocket", device="cuda", kv_cache_dtype="int8")


def test_a_fallback_that_can_not_be_served_is_told_before_the_model_is_loaded(tmp_path, nothing_loads):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM"):
        kit.load("pocket", fallback=["mock", tmp_path])


@pytest.mark.parametrize("name", [None, 3, b"pocket", ["pocket"]])
def test_what_is_neither_a_name_nor_a_path_is_refused(name):
    with pytest.raises(ConfigError, match="name, a path or a ModelLoader"):
        kit.load(name)


def test_a_path_is_a_folder_and_no_other_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pocket", "mock", "owner/name"):
        with pytest.raises(ModelNotFoundError, match=f"no model './{name}'"):
            parse_spec(type(tmp_path)(name))
    (tmp_path / "pocket").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"pocket has no config\.json"):
        parse_spec(type(tmp_path)("pocket"))


def test_a_path_names_what_its_text_names():
    folder = parse_spec("pocket").path
    by_path, by_text = resolve(folder), resolve(str(folder))
    assert by_path.key == by_text.key
    assert (by_path.spec.id, by_path.spec.path) == ("pocket", folder)
    assert resolve("pocket", given={"tokenizer": folder}).options == {"tokenizer": str(folder)}


def test_a_path_is_loaded_and_launched():
    folder = parse_spec("pocket").path
    try:
        server = kit.launch(folder, port=0)
        with server.client() as client:
            assert [model.id for model in client.models.list().data] == ["pocket"]
        assert kit.load(folder).engine is server.engines[0]
    finally:
        kit.stop_all()


@pytest.mark.slow
def test_looking_at_a_model_imports_no_torch():
    code = (
        "import sys; from llmapi_kit.loading.load_request import resolve; resolve('pocket', given={'device': 'cpu'}); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_the_documentation_of_load_names_every_option():
    names = {"fallback"}.union(*((*(source.options or ()), *source.settings) for source in sources.SOURCES.values()))
    assert [name for name in sorted(names) if f"``{name}``" not in kit.load.__doc__] == []
