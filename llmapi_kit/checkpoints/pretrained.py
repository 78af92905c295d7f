"""Models of transformers: whether one can be served, and its weights, all of which came from its files."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.utils.quantization_config import Mxfp4Config

from llmapi_kit.checkpoints.architecture import auto_class, read_config
from llmapi_kit.checkpoints.checkpoint_check import check_loaded, check_size, quiet_report
from llmapi_kit.checkpoints.decoder_families import FAMILIES
from llmapi_kit.checkpoints.device_map import check_placed
from llmapi_kit.checkpoints.generation_config import Recommended
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.load_plan import LoadPlan
from llmapi_kit.checkpoints.model_files import CONFIG, check_files, read_json
from llmapi_kit.checkpoints.packed_checkpoint import check_quantization
from llmapi_kit.checkpoints.spec import ModelSpec


def check_model(spec: ModelSpec, plan: LoadPlan, *, has_tokenizer: bool) -> Any:
    """The configuration, of a model whose files look right and that can be served through transformers."""
    import_heavy(MODEL_CLASSES)
    if spec.path is None:
        config = read_config(spec.name, spec.name)
    else:
        check_quantization(read_json(spec.path / CONFIG), spec.id, plan.device)
        config = read_config(spec.path, spec.name, trusts_code=plan.trusts_code)
        check_files(spec.path, has_tokenizer=has_tokenizer)
        check_size(config, spec.path, spec.name, trusts_code=plan.trusts_code)
    architecture = (config.architectures or [config.model_type])[0]
    if (plan.integers or plan.kv_cache_dtype) and architecture not in FAMILIES:
        raise plan.without_native(spec, f"does not know {architecture}")
    return config


def load_pretrained(spec: ModelSpec, plan: LoadPlan, config: Any, recommended: Recommended) -> Any:
    """The model with its weights, all of which came from its files."""
    own: Any = transformers.GenerationConfig(eos_token_id=list(recommended.eos_ids) or None)  # type: ignore[no-untyped-call]
    options = dict(plan.quantization)
    if plan.shard is not None:
        options = plan.shard.arguments(config, spec.name)
    elif plan.device_map is not None:
        options |= {"device_map": plan.device_map}
    if plan.device == "cpu" and (getattr(config, "quantization_config", None) or {}).get("quant_method") == "mxfp4":
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    auto = auto_class(config)
    with quiet_report():
        model, info = auto.from_pretrained(
            source_of(spec),
            config=config,
            generation_config=own,  # else its file is read again, and what is no use there is an error
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else they are an error that names none
            dtype="auto" if plan.keeps_bfloat16 else plan.dtype,
            trust_remote_code=plan.trusts_code,
            **options,
        )
    check_loaded(model, info, spec.name)
    if plan.keeps_bfloat16 and model.dtype != torch.bfloat16:
        model = model.to(plan.dtype)
    if plan.device_map is not None:
        check_placed(model, spec.name)
    return model


def source_of(spec: ModelSpec) -> str:
    """What transformers reads from."""
    return str(spec.path or spec.name)
