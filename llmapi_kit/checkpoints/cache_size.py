"""How much memory a sequence takes beside the weights: keys and values of each token, and states that do not grow.

Told by the names in a configuration, of which families have several for the same. Free of torch. A table of all
families that transformers has compares it with what is then taken, see ``tools/model_table.py``.
"""

from __future__ import annotations

from typing import Any

# Layers that keep a state of fixed size, or nothing, in place of keys and values; by what families call them
STATE_LAYERS = {"conv", "linear_attention", "mamba", "mamba2", "recurrent", "short_conv", "moe", "mlp", "dummy", "-"}
RECURRENT = {"xlstm"}  # with heads all the same
LAYER_TYPES = ("layer_types", "layers_block_type", "block_types")
NUM_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
NUM_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim")
WIDTH = ("hidden_size", "d_model", "n_embd")
# Families whose states are computed for all tokens of a step at once, where no package of theirs is installed
SCANNED = {"mamba", "falcon_mamba", "jamba"}
# Positions that a slot takes memory for at a time: whole pages of the system, for the heads of all usual models
PAGE_SIZE = 64
LIBRARY_BYTES = 8 * 2**20  # that a step's libraries keep for themselves, as measured
SCALE_BYTES = 4  # of keys and values in int8: a head of a token has one for each
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def kv_bytes_per_token(config: Any, dtype: str) -> int:
    """Bytes of keys and values that one token takes in all layers; 0 for a model that keeps a state only.

    Args:
        config: of the text model; a configuration of transformers, or one with the same names.
        dtype: of keys and values.
    """
    num_layers = num_attention_layers(config)
    if not num_layers:
        return 0
    scales = 2 * _kv_heads(config, _number(config, NUM_HEADS)) * SCALE_BYTES if dtype == "int8" else 0
    return num_layers * (_width(config) * BYTES.get(dtype, 4) + scales)


def step_bytes(config: Any, num_tokens: int) -> int:
    """Bytes of the intermediate values of a step, about: those of one layer, as all layers use the same memory.

    Args:
        config: as for `kv_bytes_per_token`.
        num_tokens: of the step.
    """
    hidden = _number(config, WIDTH)
    inner = _number(config, INNER) or 4 * hidden
    states = 0
    if getattr(config, "model_type", None) in SCANNED:
        states = hidden * _number(config, ("expand", "mamba_expand")) * _number(config, ("state_size", "mamba_d_state"))
    return LIBRARY_BYTES + num_tokens * 4 * (6 * hidden + 3 * inner + states)


def pages_of(num_slots: int, max_length: int) -> int:
    """Pages that so many full slots take."""
    return num_slots * -(-max_length // PAGE_SIZE)


def num_attention_layers(config: Any) -> int:
    """Layers that keep keys and values."""
    if not _number(config, NUM_HEADS) or getattr(config, "model_type", None) in RECURRENT:
        return 0
    kinds: Any = next((found for name in LAYER_TYPES if (found := getattr(config, name, None))), None)
    if isinstance(kinds, (list, tuple)):
        return sum(kind not in STATE_LAYERS for kind in kinds)
    return _number(config, NUM_LAYERS)


def _width(config: Any) -> int:
    """Numbers that a token's keys and values have in one layer."""
    heads = _number(config, NUM_HEADS)
    if _number(config, ("kv_lora_rank",)) and _number(config, ("index_topk",)):  # kept as they are compressed
        return int(config.kv_lora_rank + config.qk_rope_head_dim + config.index_head_dim)
    if _number(config, ("kv_lora_rank",)) and _number(config, ("qk_nope_head_dim",)):
        key = config.qk_nope_head_dim + config.qk_rope_head_dim
        return int(heads * (key + config.v_head_dim))
    kv_heads = _kv_heads(config, heads)
    size = _number(config, ("head_dim",)) or _number(config, WIDTH) // heads
    return kv_heads * (size + (_number(config, ("v_head_dim",)) or size))


def _kv_heads(config: Any, heads: int) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    return _number(config, ("num_key_value_heads", "num_kv_heads")) or heads


def _number(config: Any, names: tuple[str, ...]) -> int:
    """The first of some fields that is there; the largest, where each layer has another; 0 where there is none."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # transformers' own, where each layer has another
            value = None
        if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
            value = max(value)
        if isinstance(value, int) and value > 0:
            return value
    return 0
