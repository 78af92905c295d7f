"""Writes a transformers model as a GGUF file, for llama.cpp.

Knows Llama and Qwen2 with a byte-level BPE tokenizer, which is all the benchmarks need.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for names and types. llama.cpp rotates neighbouring
pairs of a Llama's queries and keys where transformers rotates halves, so their rows change places; Qwen2 is rotated by
halves in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2"}
# transformers' name of a tensor in a layer, and GGUF's
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(model: Any, tokenizer: dict[str, Any], chat_template: str, path: Path) -> None:
    """Write weights, tokenizer and chat template to one file.

    Matrices become float16 where the model is half precision, else float32; vectors are float32, as llama.cpp wants.

    Args:
        model: a transformers causal language model of a known architecture.
        tokenizer: contents of its ``tokenizer.json``.
        chat_template: Jinja source.
        path: of the new file.

    Raises:
        ValueError: the architecture is not known here.
    """
    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise ValueError(f"{config.model_type} models can't be written; {', '.join(ARCHITECTURES)} can.")
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    _add_shape(writer, config, is_half=model.dtype.itemsize == 2)
    _add_tokenizer(writer, tokenizer, config.vocab_size, chat_template)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if config.model_type == "llama" and name.rsplit(".", 1)[0].endswith(("q_proj", "k_proj")):
            is_query = "q_proj" in name
            array = interleave_halves(array, config.num_attention_heads if is_query else config.num_key_value_heads)
        is_half = model.dtype.itemsize == 2 and array.ndim == 2
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(array, dtype=np.float16 if is_half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of transformers.

    Raises:
        KeyError: the tensor is not known here.
    """
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.{suffix}"


def interleave_halves(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder each head's rows from (first half, second half) to pairs of one of each."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _add_shape(writer: gguf.GGUFWriter, config: Any, *, is_half: bool) -> None:
    writer.add_name("benchmark model")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if is_half else gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], size: int, chat_template: str) -> None:
    """Byte-level BPE. llama.cpp splits text by GPT-2's rules first; plain lower-case words come out the same."""
    pieces = [f"[unused {i}]" for i in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for piece, token_id in tokenizer["model"]["vocab"].items():
        pieces[token_id], kinds[token_id] = piece, gguf.TokenType.NORMAL
    for token in tokenizer["added_tokens"]:
        pieces[token["id"]] = token["content"]
        kinds[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    end = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_end|>")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template)
