"""An adapter merged into a model's weights, by PEFT: the result is an ordinary model, on which every fast path works.

What an adapter changes is taken from its weights. Knows nothing of tokenizers or engines. Blocking, like all loading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from peft.utils import set_peft_model_state_dict

from llmapi_kit.checkpoints.adapter_files import LORA_WEIGHT, Adapter, mismatch, read_tensors

FUSED = ("q_proj", "k_proj", "v_proj")


def apply_adapter(model: Any, adapter: Adapter, *, is_merged: bool = True) -> Any:
    """Give a model an adapter's weights; `model` must not be used any more, whether this returns or raises.

    Args:
        model: a causal language model of transformers, its embedding as large as the adapter's.
        adapter: from `find_adapter`.
        is_merged: add them to the model's own; False keeps them beside, which is slower, for weights in 8 bits.

    Raises:
        ModelLoadError: it was made for another model, or its weights are damaged.
    """
    tensors = read_tensors(adapter)
    pairs = {match[1]: name for name in tensors if (match := LORA_WEIGHT.fullmatch(name))}
    lora = {name: tensor for name, tensor in tensors.items() if LORA_WEIGHT.fullmatch(name)}
    modules = dict(model.named_modules())
    for target in pairs:
        if target not in modules:
            raise mismatch(adapter, f"it changes {target}, which {type(model).__name__} does not have")
    _replace_weights(model, adapter, {name: tensor for name, tensor in tensors.items() if name not in lora})
    if adapter.settings["lora_bias"]:
        _add_biases(modules, pairs)
    try:
        config = LoraConfig(**adapter.settings, target_modules=sorted(pairs), task_type="CAUSAL_LM")
        tuner = LoraModel(model, config, "default", low_cpu_mem_usage=True)
        result: Any = set_peft_model_state_dict(model, lora, low_cpu_mem_usage=True)
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if result.unexpected_keys or missing:
            raise mismatch(adapter, f"{[*result.unexpected_keys, *missing][0]} has no counterpart")
        return tuner.merge_and_unload(safe_merge=True) if is_merged else model
    # What peft and torch raise, each in its place, for a module or a tensor they can't take
    except (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError) as exc:
        raise mismatch(adapter, str(exc)) from exc


def _add_biases(modules: Mapping[str, Any], targets: Iterable[str]) -> None:
    """Give layers that have none a bias of zeros, which takes the adapter's in; projections that are fused, all."""
    for target in targets:
        owner, _, leaf = target.rpartition(".")
        names = FUSED if leaf in FUSED and all(f"{owner}.{name}" in modules for name in FUSED) else (leaf,)
        for layer in (modules[f"{owner}.{name}"] for name in names):
            if isinstance(layer, torch.nn.Linear) and layer.bias is None:
                layer.bias = torch.nn.Parameter(layer.weight.new_zeros(layer.out_features), requires_grad=False)


def _replace_weights(model: Any, adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put in weights that were trained whole: an embedding, an output layer, a norm, a bias."""
    output = model.get_output_embeddings()
    was_tied = output is not None and output.weight is model.get_input_embeddings().weight
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(owner)
            old = module.get_parameter(leaf)
        except AttributeError:
            raise mismatch(adapter, f"it has {name}, which {type(model).__name__} does not") from None
        if old.shape != tensor.shape:
            raise mismatch(adapter, f"{name} is {tuple(tensor.shape)} in it and {tuple(old.shape)} in the model")
        new = torch.nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=False)
        setattr(module, leaf, new)
        if was_tied and adapter.is_tied and module in (output, model.get_input_embeddings()):
            output.weight = model.get_input_embeddings().weight = new
    if was_tied and output.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
