"""The weights of a Llama-like decoder by name: mapped from files, or taken over from a model of transformers.

This is what `runners/native` computes with. From files it needs none of transformers' classes, whose import takes
twice as long as all the rest of a small model's load. Files are taken only where they hold exactly the tensors that
the configuration asks for; whatever is missing, has no place or has another shape is for transformers' loader to
find, and for `checkpoint_check` to name. Part of loading: blocking, but reads hardly more than headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from llmapi_kit.checkpoints.decoder_config import ROPE_NUMBERS, DecoderConfig, Rope
from llmapi_kit.checkpoints.integer_weights import IntegerFormat, IntegerMatrix, RoundedMatrix
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.checkpoints.model_files import weight_files
from llmapi_kit.checkpoints.packed_checkpoint import Packing, packing_of, unpack

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
HEAD_BITS = 8  # of integers, in embedding and output layer


class DecoderWeights:
    """Tensors of a decoder, each of which leaves as it is taken.

    Args:
        config: what the tensors are for.
        tensors: by their names in transformers, all of one type and on the CPU; without an output layer where that
            is the embedding. Owned from now on.
        inv_freq: (head_dim / 2,) of the rotary embedding, in radians a position.

    Attributes:
        config: as given.
        dtype: of all tensors, or of those that are no integers.
        tensors: those that were not taken yet.
        integers: how the matrices are stored; None where they are tensors.
    """

    def __init__(
        self, config: DecoderConfig, tensors: dict[str, torch.Tensor | IntegerMatrix], inv_freq: torch.Tensor
    ) -> None:
        self.config = config
        self.tensors = tensors
        self.dtype = self.tensor(EMBEDDING).dtype
        self.integers: IntegerFormat | None = None
        self._inv_freq = inv_freq.float()
        self._num_parameters = sum(tensor.numel() for tensor in tensors.values())
        self.num_bytes = sum(tensor.nbytes for tensor in tensors.values())

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.config.tie_word_embeddings

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.config.vocab_size

    def num_parameters(self) -> int:
        """As a model of transformers tells it: also of those that were taken."""
        return self._num_parameters

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that was not taken yet, and that is no matrix of integers."""
        return cast(torch.Tensor, self.tensors[name])

    def take(self, name: str) -> torch.Tensor:
        """Such a tensor, which is the caller's from now on."""
        taken = self.tensor(name)
        del self.tensors[name]
        return taken

    def round_to(self, integers: IntegerFormat) -> None:
        """Let all matrices be integers; those that are floats are rounded as they are packed."""
        self.integers = integers
        for name, tensor in self.tensors.items():
            bits = HEAD_BITS if name in (EMBEDDING, HEAD) else integers.bits
            if isinstance(tensor, IntegerMatrix):
                tensor.bits = bits  # of a value in memory, which may have more than in a file
            elif tensor.ndim == 2:
                self.tensors[name] = RoundedMatrix(tensor, bits, integers.group)
        self.num_bytes = sum(tensor.nbytes for tensor in self.tensors.values())

    def add_mean_rows(self, num_rows: int) -> None:
        """Give the embedding, and the output layer, so many rows; new ones are the mean of those there are."""
        for name in (EMBEDDING,) if self.is_tied else (EMBEDDING, HEAD):
            rows = self.tensor(name)
            more = torch.cat((rows, rows.mean(0).expand(num_rows - len(rows), -1)))
            self.tensors[name] = more
            self._num_parameters += more.numel() - rows.numel()
            self.num_bytes += more.nbytes - rows.nbytes
        self.config = replace(self.config, vocab_size=num_rows)

    def rotary(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotary embedding, (length, head_dim) each."""
        angles = torch.arange(length)[:, None].float() * self._inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def layer_name(index: int, part: str) -> str:
    """The name of a layer's tensor: ``self_attn.q_proj.weight`` for `part`."""
    return f"model.layers.{index}.{part}"


def read_decoder_weights(folder: Path, config: DecoderConfig) -> DecoderWeights | None:
    """Map a folder's weights; None where transformers has to load them.

    Args:
        folder: whose files of weights were looked at.
        config: of the folder.
    """
    try:
        tensors = dict(_mapped(folder))
    except SafetensorError:
        return None
    if config.num_hidden_layers > len(tensors):  # a million layers are not worth naming
        return None
    shapes = dict(_shapes(config))
    packing = packing_of(config.quantization)
    if config.quantization is not None and packing is None:
        return None
    if config.tie_word_embeddings and HEAD in tensors:
        head = tensors.pop(HEAD)
        if EMBEDDING not in tensors or not _is_same(head, tensors[EMBEDDING]):
            return None
    found = dict[str, torch.Tensor | IntegerMatrix](tensors) if packing is None else unpack(packing, tensors, shapes)
    if found is None or {name: tuple(each.shape) for name, each in found.items()} != shapes:
        return None
    if len({each.dtype for each in found.values() if isinstance(each, torch.Tensor)}) != 1:
        return None
    ordered = {name: found[name] for name in shapes}
    weights = DecoderWeights(config, ordered, inverse_frequencies(config.rope, config.head_dim))
    if packing is not None and any(isinstance(each, IntegerMatrix) for each in found.values()):
        weights.integers = _integers(packing, found)
    return weights


def _integers(packing: Packing, found: Mapping[str, torch.Tensor | IntegerMatrix]) -> IntegerFormat:
    """What all matrices of layers fit into: 8 bits where some of them came as floats."""
    layers = [each for name, each in found.items() if len(each.shape) == 2 and name not in (EMBEDDING, HEAD)]
    bits = packing.bits if all(isinstance(each, IntegerMatrix) for each in layers) else 8
    return IntegerFormat(bits, packing.step_group)


def weights_of_model(model: Any) -> DecoderWeights:
    """The weights of a model of transformers, which has none after it and can't run by itself any more.

    Args:
        model: a causal language model on the CPU that `LeanDecoder` and `NativeDecoder` can run.
    """
    tensors: dict[str, torch.Tensor | IntegerMatrix] = {
        name: parameter.detach() for name, parameter in model.named_parameters()
    }
    config = _config_of(model, is_tied=HEAD not in tensors)
    weights = DecoderWeights(config, tensors, model.model.rotary_emb.inv_freq)
    for parameter in model.parameters():  # a view of a mapped file keeps all of it mapped
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    return weights


def inverse_frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """What a position turns each pair of a head's numbers by, in radians: (head_dim / 2,).

    Source: Su et al. 2021 (RoFormer); for the scaled kinds, the blog post of kaiokendev on linear scaling, and
    https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py.
    """
    frequencies = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _stretch_long_waves(frequencies, rope)
    return frequencies


def _stretch_long_waves(frequencies: torch.Tensor, rope: Rope) -> torch.Tensor:
    context, low, high = rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor
    wavelengths = 2 * torch.pi / frequencies
    stretched = frequencies / rope.factor
    share = (context / wavelengths - low) / (high - low)
    between = (1 - share) * stretched + share * frequencies
    kept = torch.where(wavelengths < context / high, frequencies, between)
    return torch.where(wavelengths > context / low, stretched, kept)


def _mapped(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                if not name.endswith("rotary_emb.inv_freq"):  # old files have it, and it is computed today
                    yield name, file.get_tensor(name)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    is_same = one.dtype == other.dtype and torch.equal(one, other)
    for tensor in (one, other):
        drop_pages(tensor)
    return is_same


def _shapes(config: DecoderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor that a configuration asks for, in the order of transformers' modules."""
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    parts: dict[str, tuple[int, ...]] = {}
    for name, size in (("q", queries), ("k", keys), ("v", keys)):
        parts[f"self_attn.{name}_proj.weight"] = (size, hidden)
        if config.has_qkv_bias:
            parts[f"self_attn.{name}_proj.bias"] = (size,)
    parts["self_attn.o_proj.weight"] = (hidden, queries)
    if config.has_qk_norm:
        parts |= {f"self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
    parts |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
    parts["mlp.down_proj.weight"] = (hidden, inner)
    parts |= {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    yield EMBEDDING, (config.vocab_size, hidden)
    for index in range(config.num_hidden_layers):
        for part, shape in parts.items():
            yield layer_name(index, part), shape
    yield NORM, (hidden,)
    if not config.tie_word_embeddings:
        yield HEAD, (config.vocab_size, hidden)


def _config_of(model: Any, *, is_tied: bool) -> DecoderConfig:
    """What a model of transformers computes, told by its modules."""
    config, layers = model.config, model.model.layers
    attention = layers[0].self_attn
    # Mistral's layers leave it to their configuration
    window = getattr(config, "sliding_window", None) if type(model).__name__ == "MistralForCausalLM" else None
    return DecoderConfig(
        architecture=type(model).__name__,
        vocab_size=int(model.lm_head.weight.shape[0]),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        num_hidden_layers=len(layers),
        num_attention_heads=int(config.num_attention_heads),
        num_key_value_heads=int(config.num_key_value_heads),
        head_dim=int(attention.head_dim),
        max_position_embeddings=int(config.max_position_embeddings),
        rms_norm_eps=float(config.rms_norm_eps),
        tie_word_embeddings=is_tied,
        has_qkv_bias=attention.q_proj.bias is not None,
        has_qk_norm=hasattr(attention, "q_norm"),
        windows=tuple(getattr(layer.self_attn, "sliding_window", window) or 0 for layer in layers),
        rope=_rope_of(config),
        eos_token_id=config.eos_token_id,
        dtype=None,
    )


def _rope_of(config: Any) -> Rope:
    values: Mapping[str, Any] = config.rope_parameters
    kind = values.get("rope_type", "default")
    return Rope(kind, float(values["rope_theta"]), **{name: float(values[name]) for name in ROPE_NUMBERS[kind]})
