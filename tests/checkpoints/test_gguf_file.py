"""What a GGUF file says of its model, and what is refused before llama.cpp sees it."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest

from llmapi_kit.checkpoints.gguf_file import open_gguf
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.errors import MissingDependencyError, ModelError, ModelLoadError, ModelNotFoundError
from tests.runners.architectures import write_random
from tests.runners.llama_files import write_tiny

STRING, U32, FLOAT = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32


def put(key, value, kind=U32):
    """Replace a key, or add one."""

    def change(writer):
        writer.kv_data[0].pop(key, None)
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kind)

    return change


def drop(key):
    return lambda writer: writer.kv_data[0].pop(key)


WORDS = [f"w{i}" for i in range(199)]
REFUSED = {
    "images": (put("general.architecture", "clip", STRING), "load the model and pass mmproj="),
    "no architecture": (drop("general.architecture"), "what architecture"),
    "an architecture that is a number": (put("general.architecture", 3), "what architecture"),
    "an architecture that is a list": (put("general.architecture", ["llama"]), "is a list"),
    "an adapter": (put("general.type", "adapter", STRING), "LoRA adapter: load its base model"),
    "no direction": (put("llama.attention.causal", False, gguf.GGUFValueType.BOOL), "both directions"),
    "one part of three": (put("split.count", 3), "parts keep the names"),
    "two thousand million layers": (put("llama.block_count", 2**31 - 1), "2,147,483,647 layers"),
    "layers past all numbers": (put("llama.block_count", 2**32 - 1), "whole number"),
    "no tokenizer": (put("tokenizer.ggml.model", "none", STRING), "no tokenizer"),
    "a tokenizer that is a list": (put("tokenizer.ggml.model", ["gpt2"]), "is a list"),
    "no tokens": (drop("tokenizer.ggml.tokens"), "no list of tokens"),
    "tokens that are numbers": (put("tokenizer.ggml.tokens", [1, 2]), "no list of tokens"),
    "a token twice": (put("tokenizer.ggml.tokens", [*WORDS[:-1], "w0"]), "only 198 of them are different"),
    "a token twice up to a zero": (put("tokenizer.ggml.tokens", [*WORDS[:-1], "w0\0x"]), "only 198"),
    "a token without end": (put("tokenizer.ggml.tokens", [*WORDS[:-1], "x" * 5000]), "more than 4,096 bytes"),
    "kinds of other tokens": (put("tokenizer.ggml.token_type", [1] * 5), "token_type"),
    "kinds that are texts": (put("tokenizer.ggml.token_type", ["a"] * 199), "token_type"),
    "scores of other tokens": (put("tokenizer.ggml.scores", [1.0] * 5), "scores"),
    "a role past all tokens": (put("tokenizer.ggml.bos_token_id", "x", STRING), "not a token"),
    "a byte without a token": (put("tokenizer.ggml.model", "llama", STRING), "no token for the byte 0x00"),
    "a template that is no text": (put("tokenizer.chat_template", 5), "is not text"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_llama_cpp_could_not_live_with_is_refused_by_name(case, tmp_path):
    change, match = REFUSED[case]
    write_tiny(tmp_path / "m.gguf", extra=change)
    with pytest.raises(ModelError, match=match):
        assert open_gguf(tmp_path / "m.gguf").chat_template is None


def test_a_file_tells_what_its_model_needs(tmp_path):
    model = write_tiny(tmp_path / "m.gguf", "qwen3")
    file = open_gguf(tmp_path / "m.gguf")
    assert file.weights_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert (file.architecture, file.context_length, file.vocab_size, file.dtype) == ("qwen3", 512, 199, "f32")
    # Two layers, two heads of keys and of values, 24 numbers each
    assert file.kv_bytes_per_token("f16") == 2 * 2 * (24 + 24) * 2
    assert file.kv_bytes_per_token("f32") == 2 * file.kv_bytes_per_token("f16")
    assert file.kv_bytes_per_token("q8_0") == 2 * 2 * (24 + 24) * 34 // 32


def test_layers_may_have_different_heads_and_states_have_no_length(tmp_path):
    write_tiny(tmp_path / "m.gguf", extra=put("llama.attention.head_count_kv", [2, 0, 1]))
    assert open_gguf(tmp_path / "m.gguf").kv_bytes_per_token("f16") == (2 + 0 + 1) * (8 + 8) * 2
    write_random(tmp_path / "state.gguf", "mamba")
    file = open_gguf(tmp_path / "state.gguf")
    assert file.kv_bytes_per_token("f16") == 0
    assert file.state_bytes() == 4 * 2 * 128 * (16 + 4)


def test_what_its_makers_recommend_and_several_templates_are_read(tmp_path):
    def change(writer):
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.top_p", float("nan"))
        writer.add_chat_template([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}])

    write_tiny(tmp_path / "m.gguf", extra=change)
    file = open_gguf(tmp_path / "m.gguf")
    assert file.sampling_defaults == {"temperature": 0.5, "top_k": 20}
    assert file.chat_template == {"default": "plain", "tool_use": "tools"}


def split(path, folder, name="part", num_parts=3):
    """The tensors of a file in several files, as llama-gguf-split leaves them."""
    reader = gguf.GGUFReader(path)
    parts = []
    for number in range(num_parts):
        parts.append(folder / f"{name}-{number + 1:05d}-of-{num_parts:05d}.gguf")
        writer = gguf.GGUFWriter(parts[-1], "llama")
        if number == 0:
            for field in reader.fields.values():
                if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                    element = field.types[1] if len(field.types) > 1 else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", num_parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::num_parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_a_model_in_several_files_is_found_by_any_of_them(tmp_path):
    write_tiny(tmp_path / "m.gguf")
    parts = split(tmp_path / "m.gguf", tmp_path)
    whole = open_gguf(tmp_path / "m.gguf")
    for part in parts:
        file = open_gguf(part)
        assert (file.path, file.weights_bytes, file.vocab_size) == (parts[0], whole.weights_bytes, 199)
        assert parse_spec(str(part)).id == "part"
    parts[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(ModelNotFoundError, match=r"part-00002-of-00003\.gguf is not beside it"):
        open_gguf(parts[2])
    parts[2].rename(parts[1])
    parts[0].with_name("part-00003-of-00003.gguf").write_bytes(parts[1].read_bytes())
    with pytest.raises(ModelLoadError, match="has the name of part 1 of 3"):
        open_gguf(parts[0])
    with pytest.raises(ModelLoadError, match="part 2 of 3 and has the name of part 0 of 1"):
        open_gguf(parts[1].rename(tmp_path / "alone.gguf"))


def test_names_of_files_are_understood_by_what_is_there(tmp_path):
    with pytest.raises(ModelError, match="no GGUF file"):
        parse_spec(str(tmp_path / "none.gguf"))
    write_tiny(tmp_path / "without-an-ending")
    assert (parse_spec(str(tmp_path / "without-an-ending")).kind) == "gguf"
    write_tiny(tmp_path / "my.model.gguf")
    assert parse_spec(str(tmp_path / "my.model.gguf")).id == "my.model"
    with pytest.raises(ModelError, match=r"name the one to load.*my\.model\.gguf"):
        parse_spec(str(tmp_path))


def test_without_the_package_that_knows_the_formats_the_extra_is_named(tmp_path, monkeypatch):
    write_tiny(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"llmapi-kit\[gguf\]"):
        open_gguf(tmp_path / "m.gguf")
