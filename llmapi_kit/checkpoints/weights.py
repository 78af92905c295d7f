"""Loads weights and tokenizer of a model, from a folder or from the hub.

Knows nothing of slots or engines. Blocking and slow: call it from a cell or a worker thread, never on an event loop.
Only safetensors weights are read; code that comes with a model is run only where it is said to be trusted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from llmapi_kit.checkpoints.architecture import context_limit, is_vision_model
from llmapi_kit.checkpoints.decoder_config import read_decoder_config
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, read_decoder_weights
from llmapi_kit.checkpoints.download import DEFAULT_STALL_S, download_model
from llmapi_kit.checkpoints.generation_config import Recommended, read_recommended
from llmapi_kit.checkpoints.heavy_imports import ADAPTERS, import_heavy
from llmapi_kit.checkpoints.integer_weights import IntegerFormat
from llmapi_kit.checkpoints.load_options import check_revision, check_sampling_names, check_subfolder
from llmapi_kit.checkpoints.load_plan import HasNative, LoadPlan, check_before_download, check_room, name_of, plan_load
from llmapi_kit.checkpoints.mapped_files import drop_unused_pages
from llmapi_kit.checkpoints.model_files import CONFIG, check_files, read_json, weight_files
from llmapi_kit.checkpoints.pretrained import check_model, load_pretrained, source_of
from llmapi_kit.checkpoints.remote_code import brings_code, check_code, check_trust, how_to_trust, warn_of_code
from llmapi_kit.checkpoints.reported_bar import reported_bars
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.checkpoints.tensor_parallel import Shard
from llmapi_kit.checkpoints.vision_encoder import VisionEncoder
from llmapi_kit.checkpoints.vocabulary import fit_embeddings, load_other_tokenizer, load_tokenizer
from llmapi_kit.errors import (
    ConfigError,
    LlmApiKitError,
    MissingDependencyError,
    ModelLoadError,
    ModelTooLargeError,
    UnsupportedModelError,
)
from llmapi_kit.progress import report

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.adapter_files import Adapter


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights and tokenizer, ready.

    Attributes:
        model: a causal language model of transformers, in evaluation mode; or `DecoderWeights`, see `load_model`.
        tokenizer: its tokenizer.
        device: where the weights are.
        dtype: of arithmetic, such as ``float32``; weights that came in bfloat16 may be in that still.
        eos_ids: tokens that end an answer, from the generation configuration.
        context_length: the model's own limit; 0 where it has none.
        vision: what looks at pictures, for a model that sees; its decoder is `model`.
        integers: what the weights are to be rounded to; `DecoderWeights` are set to it already.
        kv_dtype: of keys and values; None for that of arithmetic.
        is_divided: whether parts are on several devices or in several processes, which only its own modules know.
        sampling_defaults: what its makers recommend: `temperature`, `top_k`, …; not looked at yet, as they wrote it.
    """

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    eos_ids: tuple[int, ...]
    context_length: int
    sampling_defaults: dict[str, float]
    vision: VisionEncoder | None = None
    integers: IntegerFormat | None = None
    kv_dtype: str | None = None
    is_divided: bool = False


def load_model(
    spec: ModelSpec,
    *,
    device: str | None = None,
    dtype: str | None = None,
    lora: str | None = None,
    tokenizer: str | None = None,
    quantize: str | None = None,
    kv_cache_dtype: str | None = None,
    sampling: Mapping[str, float] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    trust_remote_code: bool | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    shard: Shard | None = None,
    download_stall_s: float = DEFAULT_STALL_S,
    has_native: HasNative | None = None,
) -> LoadedModel:
    """Load weights and tokenizer.

    Args:
        spec: a folder or a model of the hub.
        device: ``cpu``, ``cuda`` or ``cuda:0``; the first GPU where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``. By default the model's own on a GPU; on a CPU float32, but
            weights that are stored in bfloat16 stay in it.
        lora: a LoRA adapter in PEFT's format, merged into the weights: a folder or a hub name.
        tokenizer: a folder or a hub name; else the adapter's where it has one, else the model's. Where it has more
            tokens than the embedding has rows, rows are added.
        quantize: ``int8`` or ``int4`` on a CPU, ``8bit`` or ``4bit`` on a GPU: what the weights are kept in.
        kv_cache_dtype: of keys and values on a CPU: ``float32``, ``bfloat16`` or ``int8``.
        sampling: what holds where a request does not say, before what its makers recommend: ``temperature``, ``top_k``,
            ``top_p``, ``min_p``, ``repetition_penalty``.
        revision: of a hub model: a branch, a tag or a commit; the main branch unless given.
        subfolder: of a hub model: where in the repository it is.
        trust_remote_code: run code that comes with it, see `llmapi_kit.checkpoints.remote_code`.
        device_map: on which devices the layers are; see `llmapi_kit.checkpoints.device_map`.
        shard: which part of the model to load, of several in as many processes.
        download_stall_s: see `llmapi_kit.checkpoints.download.Download`.
        has_native: asked for weights that `llmapi_kit.runners.native` may compute with: whether it does. Then they
            come as `DecoderWeights`, without a model of transformers around them, whose import would be most of the
            time. None for a model of transformers in any case.

    Raises:
        ModelNotFoundError: there is no such model, adapter or tokenizer, or the hub can't be reached.
        UnsupportedModelError: it has no safetensors weights, or is of a kind that can't be loaded.
        ModelLoadError: the files are damaged, do not fit into memory, or do not fit each other.
        ConfigError: `device`, `dtype` or `quantize` is not known, or can't be had here.
        MissingDependencyError: a package is not installed.
    """
    if spec.kind == "gguf":
        raise UnsupportedModelError(
            f"{spec.name} is a GGUF file, which llama.cpp runs: here are models of transformers."
        )
    check_sampling_names(sampling)
    check_revision(revision, spec)
    check_subfolder(subfolder, spec)
    check_trust(trust_remote_code, revision, spec)
    plan = plan_load(spec, device, dtype, quantize, kv_cache_dtype, device_map, shard, has_native)
    plan = replace(plan, trusts_code=trust_remote_code is True, keeps_bfloat16=plan.keeps_bfloat16 and lora is None)
    adapter = _find_adapter(lora, download_stall_s)
    if spec.kind == "hub":
        check_fit = partial(check_before_download, spec, plan)
        wanted: dict[str, Any] = {"subfolder": subfolder or "", "has_code": plan.trusts_code}
        spec = replace(spec, path=download_model(spec.name, download_stall_s, check_fit, revision, **wanted))
    if plan.trusts_code and spec.path is not None:
        warn_of_code(spec.name, check_code(spec.path, spec.name))
        plan = replace(plan, trusts_code=brings_code(read_json(spec.path / CONFIG)))
    try:
        is_own = tokenizer is None and not (adapter and adapter.has_tokenizer)
        weights = _map_weights(spec, plan, has_tokenizer=is_own) if adapter is None else None
        if weights is not None:
            config: Any = weights.config
        else:
            config = check_model(spec, plan, has_tokenizer=is_own)
            if is_vision_model(config):  # torch computes it in one type
                plan = replace(plan, keeps_bfloat16=False)
        recommended = read_recommended(source_of(spec), config)
        text = _load_tokenizer(spec, tokenizer, adapter, download_stall_s, trust_remote_code is True)
        num_rows = max(len(text), adapter.num_embeddings if adapter else 0)
        check_room(spec, plan, adapter, num_rows, unpacks=weights is None)
        if weights is not None:
            model, vision = _finished(weights, plan, len(text)), None
        else:
            model, vision = _load_transformers_model(spec, plan, config, recommended, adapter, len(text))
    except LlmApiKitError:
        raise
    except torch.OutOfMemoryError as exc:
        raise ModelTooLargeError(f"{spec.id} does not fit on {plan.device}: {exc}") from exc
    except Exception as exc:
        raise _explain(spec, exc) from exc
    return LoadedModel(
        model,
        text,
        plan.device,
        name_of(plan.dtype if plan.keeps_bfloat16 or weights is not None else model.dtype),
        recommended.eos_ids,
        context_limit(model.config.get_text_config()),
        {**recommended.sampling, **(sampling or {})},
        vision,
        plan.integers,
        kv_cache_dtype,
        plan.is_divided,
    )


def _finished(weights: DecoderWeights, plan: LoadPlan, num_tokens: int) -> DecoderWeights:
    """Weights for a step in C, with a row for each token, and set to what they are to be rounded to."""
    fit_embeddings(weights, num_tokens, 0)
    if given := plan.integers or weights.integers:
        weights.round_to(given)
    return weights


def _load_transformers_model(
    spec: ModelSpec, plan: LoadPlan, config: Any, recommended: Recommended, adapter: Adapter | None, num_tokens: int
) -> tuple[Any, VisionEncoder | None]:
    """A model of transformers on its device, its adapter merged, with a row for each token; and what it sees with."""
    with reported_bars():
        model: Any = load_pretrained(spec, plan, config, recommended)
    vision = None
    if is_vision_model(config):
        # Their classes derive from transformers' own, which take seconds to import
        from llmapi_kit.checkpoints.vision_decoder import extract_decoder
        from llmapi_kit.checkpoints.vision_processor import load_processor

        vision = VisionEncoder(plan.placed(model).eval(), load_processor(source_of(spec), spec.name))
        model = extract_decoder(model, spec.name)
    if plan.is_divided and num_tokens > model.get_input_embeddings().num_embeddings:
        raise UnsupportedModelError(
            f"The tokenizer of {spec.name} has more tokens than the model, whose embedding can't grow where "
            "tensor_parallel or device_map divides it. Leave that out."
        )
    fit_embeddings(model, num_tokens, adapter.num_embeddings if adapter else 0)
    if adapter is not None:
        from llmapi_kit.checkpoints.adapters import apply_adapter

        model = apply_adapter(model, adapter, is_merged=not plan.quantization)
    model = plan.placed(model).eval()
    if spec.path is not None and plan.device == "cpu":
        drop_unused_pages(model, weight_files(spec.path))
    return model, vision


def _map_weights(spec: ModelSpec, plan: LoadPlan, *, has_tokenizer: bool) -> DecoderWeights | None:
    """The weights for a step in C; None where there is none for them, or where transformers has to judge the files.

    Args:
        spec: of the model.
        plan: how it is loaded.
        has_tokenizer: whether the folder's tokenizer is asked for.
    """
    folder = spec.path
    if plan.has_native is None or plan.trusts_code or folder is None:
        return None
    config = read_decoder_config(folder)
    if config is None:
        return None
    check_files(folder, has_tokenizer=has_tokenizer)
    report("reading weights")
    weights = read_decoder_weights(folder, config)
    if weights is None:
        return None
    if weights.integers is not None and plan.integers is not None:
        raise ConfigError(f"{folder} comes in {weights.integers.bits} bits already. Leave quantize out.")
    # Where nothing is asked for, the configuration has a say; another type than the stored one has to be converted to
    wanted = config.dtype if plan.keeps_bfloat16 else name_of(plan.dtype)
    if wanted not in (None, name_of(weights.dtype)) and plan.integers is None and not config.quantization:
        return None
    arithmetic = torch.float32 if plan.keeps_bfloat16 else cast(torch.dtype, plan.dtype)  # on a CPU it is always named
    if arithmetic != torch.float32 and config.variant.experts is not None:
        return None  # other roundings than the model's own choose other experts
    stored = plan.integers or weights.integers or weights.dtype
    kv_dtype: torch.dtype | None = getattr(torch, plan.kv_cache_dtype or "", None)
    return weights if plan.has_native(stored, arithmetic, kv_dtype) else None


def _find_adapter(lora: str | None, stall_s: float) -> Adapter | None:
    if lora is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("peft", "torch", f"Merging the adapter {lora}")
    import_heavy(ADAPTERS)
    from llmapi_kit.checkpoints.adapter_files import find_adapter

    return find_adapter(lora, stall_s)


def _load_tokenizer(
    spec: ModelSpec, name: str | None, adapter: Adapter | None, stall_s: float, trusts_code: bool
) -> Any:
    """The tokenizer that was named, else the adapter's, else the model's."""
    if name is not None:
        return load_other_tokenizer(name, stall_s)
    if adapter is not None and adapter.has_tokenizer:
        return load_other_tokenizer(str(adapter.folder), stall_s)
    return load_tokenizer(source_of(spec), f"The tokenizer of {spec.name}", trusts_code=trusts_code)


def _explain(spec: ModelSpec, exc: Exception) -> LlmApiKitError:
    """An error a person can act on, from whatever transformers or the hub raised."""
    if "trust_remote_code" in str(exc):
        return UnsupportedModelError(how_to_trust(spec.id))
    return ModelLoadError(f"{spec.id} could not be loaded: {type(exc).__name__}: {exc}")
