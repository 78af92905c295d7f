"""Tiny random GGUF files of many architectures: the tensors and parameters that llama.cpp asks for, and no more.

What they compute means nothing; a batch has to compute the same as each of its sequences alone.
"""

from __future__ import annotations

import gguf
import numpy as np

VOCAB, WIDTH, HEADS, KV_HEADS, HEAD, INNER, LAYERS = 96, 64, 4, 2, 16, 96, 2
Q, KV = HEADS * HEAD, KV_HEADS * HEAD

NORMS = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
NORM_BIASES = {"attn_norm.bias": (WIDTH,), "ffn_norm.bias": (WIDTH,)}
SPLIT = {"attn_q.weight": (Q, WIDTH), "attn_k.weight": (KV, WIDTH), "attn_v.weight": (KV, WIDTH)}
SPLIT_BIASES = {"attn_q.bias": (Q,), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}
FUSED = {"attn_qkv.weight": (Q + 2 * KV, WIDTH)}
FUSED_BIAS = {"attn_qkv.bias": (Q + 2 * KV,)}
OUT = {"attn_output.weight": (WIDTH, Q)}
OUT_BIAS = {"attn_output.bias": (WIDTH,)}
HEAD_NORMS = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
WIDE_HEAD_NORMS = {"attn_q_norm.weight": (Q,), "attn_k_norm.weight": (KV,)}
POST_NORMS = {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
PLAIN = {"ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
PLAIN_BIASES = {"ffn_up.bias": (INNER,), "ffn_down.bias": (WIDTH,)}
GATED = {"ffn_gate.weight": (INNER, WIDTH), **PLAIN}
EXPERTS = {
    "ffn_gate_inp.weight": (4, WIDTH),
    "ffn_gate_exps.weight": (4, 32, WIDTH),
    "ffn_up_exps.weight": (4, 32, WIDTH),
    "ffn_down_exps.weight": (4, WIDTH, 32),
}
WIDE_EXPERTS = {  # as wide as a feed-forward, and a number of them that is no other size
    "ffn_gate_inp.weight": (5, WIDTH),
    "ffn_gate_exps.weight": (5, INNER, WIDTH),
    "ffn_up_exps.weight": (5, INNER, WIDTH),
    "ffn_down_exps.weight": (5, WIDTH, INNER),
}
LLAMA = {**NORMS, **SPLIT, **OUT, **GATED}
NEOX = {**NORMS, **NORM_BIASES, **FUSED, **FUSED_BIAS, **OUT, **OUT_BIAS, **PLAIN, **PLAIN_BIASES}
MAMBA = {
    "attn_norm.weight": (WIDTH,),
    "ssm_in.weight": (256, WIDTH),
    "ssm_conv1d.weight": (128, 4),
    "ssm_conv1d.bias": (128,),
    "ssm_x.weight": (4 + 32, 128),
    "ssm_dt.weight": (128, 4),
    "ssm_dt.bias": (128,),
    "ssm_a": (128, 16),
    "ssm_d": (128,),
    "ssm_out.weight": (WIDTH, 128),
}
EPSILON = {"attention.layer_norm_rms_epsilon": 1e-5}
LN_EPSILON = {"attention.layer_norm_epsilon": 1e-5}
MOE = {**EPSILON, "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
WINDOW = {**EPSILON, "attention.sliding_window": 8, "attention.key_length": HEAD, "attention.value_length": HEAD}
STATE = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.time_step_rank": 4, **EPSILON}

# Name, whose first word is the architecture's: tensors of a layer, parameters, and whether it has an output projection
# of its own and a bias of the last norm
ARCHITECTURES = {
    "llama": (LLAMA, EPSILON, True, False),
    "llama with experts": (
        {**NORMS, **SPLIT, **OUT, **WIDE_EXPERTS},
        {**EPSILON, "expert_count": 5, "expert_used_count": 2},
        True,
        False,
    ),
    "qwen2": ({**LLAMA, **SPLIT_BIASES}, EPSILON, True, False),
    "qwen3": ({**LLAMA, **HEAD_NORMS}, EPSILON, False, False),
    "qwen3moe": ({**NORMS, **SPLIT, **OUT, **HEAD_NORMS, **EXPERTS}, MOE, True, False),
    "gemma": (LLAMA, {**EPSILON, "attention.key_length": HEAD, "attention.value_length": HEAD}, False, False),
    "gemma2": ({**LLAMA, **POST_NORMS}, WINDOW, False, False),
    "gemma3": ({**LLAMA, **POST_NORMS, **HEAD_NORMS}, WINDOW, False, False),
    "phi3": (
        {**NORMS, **FUSED, **OUT, "ffn_up.weight": (2 * INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)},
        EPSILON,
        True,
        False,
    ),
    "gpt2": (NEOX, LN_EPSILON, False, True),
    "gptneox": (NEOX, {**LN_EPSILON, "use_parallel_residual": True}, True, True),
    "starcoder2": (
        {**NORMS, **NORM_BIASES, **SPLIT, **SPLIT_BIASES, **OUT, **OUT_BIAS, **PLAIN, **PLAIN_BIASES},
        LN_EPSILON,
        True,
        True,
    ),
    "olmo2": ({**SPLIT, **WIDE_HEAD_NORMS, **OUT, **POST_NORMS, **GATED}, EPSILON, True, False),
    "granite": (LLAMA, {**EPSILON, "logit_scale": 2.0, "residual_scale": 0.5, "embedding_scale": 2.0}, False, False),
    "stablelm": ({**LLAMA, **NORM_BIASES}, {**LN_EPSILON, "use_parallel_residual": False}, True, True),
    "command-r": (
        {"attn_norm.weight": (WIDTH,), **SPLIT, **OUT, **GATED},
        {**LN_EPSILON, "logit_scale": 0.5},
        False,
        False,
    ),
    "mamba": (MAMBA, STATE, False, False),
}


def write_random(path, model, seed=0):
    """A file of an architecture."""
    layer, parameters, has_output, has_bias = ARCHITECTURES[model]
    architecture, *_ = model.split()
    writer = gguf.GGUFWriter(path, architecture)
    rng = np.random.default_rng(seed)
    is_mamba = architecture == "mamba"
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(0 if is_mamba else INNER)
    writer.add_head_count(0 if is_mamba else HEADS)
    if not is_mamba:
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_dimension_count(HEAD)
    for key, value in parameters.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{i}" for i in range(VOCAB)])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (VOCAB, WIDTH), "output_norm.weight": (WIDTH,)}
    shapes |= {"output.weight": (VOCAB, WIDTH)} if has_output else {}
    shapes |= {"output_norm.bias": (WIDTH,)} if has_bias else {}
    shapes |= {"position_embd.weight": (256, WIDTH)} if architecture == "gpt2" else {}
    for number in range(LAYERS):
        shapes |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32) * 0.2 + ("norm.weight" in name)
        writer.add_tensor(name, -np.exp(values) if name.endswith("ssm_a") else values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
