"""Loads weights and tokenizer of a model, from a folder or from the hub.

Knows nothing of slots or engines. Blocking and slow: call it from a cell or a worker thread, never on an event loop.
Only safetensors weights are read; code that comes with a model is run only where it is said to be trusted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from transformers.utils.quantization_config import Mxfp4Config

from llmapi_kit.checkpoints.architecture import auto_class, context_limit, read_config, sees
from llmapi_kit.checkpoints.checkpoint_check import check_loaded, check_size, quiet_report
from llmapi_kit.checkpoints.decoder_config import read_decoder_config
from llmapi_kit.checkpoints.decoder_families import FAMILIES
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, read_decoder_weights
from llmapi_kit.checkpoints.device_choice import LOADED_AS, pick_device, pick_dtype, pick_quantization
from llmapi_kit.checkpoints.device_map import check_placed
from llmapi_kit.checkpoints.download import DEFAULT_STALL_S, download_model
from llmapi_kit.checkpoints.fit import Fit, check_folder
from llmapi_kit.checkpoints.generation_config import Recommended, read_recommended
from llmapi_kit.checkpoints.heavy_imports import ADAPTERS, MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.integer_weights import ROUNDED, IntegerFormat
from llmapi_kit.checkpoints.load_options import (
    check_kv_cache_dtype,
    check_revision,
    check_sampling_names,
    check_subfolder,
)
from llmapi_kit.checkpoints.mapped_files import drop_unused_pages
from llmapi_kit.checkpoints.model_files import CONFIG, check_files, read_json, weight_files
from llmapi_kit.checkpoints.packed_checkpoint import check_quantization
from llmapi_kit.checkpoints.remote_code import brings_code, check_code, check_trust, how_to_trust, warn_of_code
from llmapi_kit.checkpoints.reported_bar import reported_bars
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.checkpoints.tensor_parallel import Shard
from llmapi_kit.checkpoints.vision import Eye
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

# Whether there is a step in C for weights, arithmetic, and keys and values in some formats; None for that of arithmetic
HasNative = Callable[[torch.dtype | IntegerFormat, torch.dtype, torch.dtype | None], bool]


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
        eye: what looks at pictures, for a model that sees; its decoder is `model`.
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
    eye: Eye | None = None
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
    way = _choose(spec, device, dtype, quantize, kv_cache_dtype, device_map, shard, has_native)
    way = replace(way, trusts_code=trust_remote_code is True, keeps_bfloat16=way.keeps_bfloat16 and lora is None)
    adapter = _find_adapter(lora, download_stall_s)
    if spec.kind == "hub":
        check_fit = partial(_check_before_download, spec, way)
        wanted: dict[str, Any] = {"subfolder": subfolder or "", "has_code": way.trusts_code}
        spec = replace(spec, path=download_model(spec.name, download_stall_s, check_fit, revision, **wanted))
    if way.trusts_code and spec.path is not None:
        warn_of_code(spec.name, check_code(spec.path, spec.name))
        way = replace(way, trusts_code=brings_code(read_json(spec.path / CONFIG)))
    try:
        is_own = tokenizer is None and not (adapter and adapter.has_tokenizer)
        weights = _map_weights(spec, way, has_tokenizer=is_own) if adapter is None else None
        if weights is not None:
            config: Any = weights.config
        else:
            config = _check_model(spec, way, has_tokenizer=is_own)
            way = replace(way, keeps_bfloat16=way.keeps_bfloat16 and not sees(config))  # torch computes in one type
        recommended = read_recommended(_source(spec), config)
        text = _load_tokenizer(spec, tokenizer, adapter, download_stall_s, trust_remote_code is True)
        num_trained = adapter.num_embeddings if adapter else 0
        _check_fit(spec, way, adapter, num_rows=max(len(text), num_trained), unpacks=weights is None)
        with reported_bars():
            model: Any = _load_weights(spec, way, config, recommended) if weights is None else weights
        eye = None
        if weights is None and sees(config):
            # Their classes derive from transformers' own, which take seconds to import
            from llmapi_kit.checkpoints.vision_decoder import take_apart
            from llmapi_kit.checkpoints.vision_processor import load_processor

            eye = Eye(way.placed(model).eval(), load_processor(_source(spec), spec.name))
            model = take_apart(model, spec.name)
        if way.is_divided and len(text) > model.get_input_embeddings().num_embeddings:
            raise UnsupportedModelError(
                f"The tokenizer of {spec.name} has more tokens than the model, whose embedding can't grow where "
                "tensor_parallel or device_map divides it. Leave that out."
            )
        fit_embeddings(model, len(text), num_trained)
        if weights is not None and (given := way.integers or weights.integers):
            weights.round_to(given)
        if adapter is not None:
            from llmapi_kit.checkpoints.adapters import apply_adapter

            model = apply_adapter(model, adapter, is_merged=not way.quantization)
        if weights is None:
            model = way.placed(model).eval()
            if spec.path is not None and way.device == "cpu":
                drop_unused_pages(model, weight_files(spec.path))
    except LlmApiKitError:
        raise
    except torch.OutOfMemoryError as exc:
        raise ModelTooLargeError(f"{spec.id} does not fit on {way.device}: {exc}") from exc
    except Exception as exc:
        raise _explain(spec, exc) from exc
    return LoadedModel(
        model,
        text,
        way.device,
        _name(way.dtype if way.keeps_bfloat16 or weights is not None else model.dtype),
        recommended.eos_ids,
        context_limit(model.config.get_text_config()),
        {**recommended.sampling, **(sampling or {})},
        eye,
        way.integers,
        kv_cache_dtype,
        way.is_divided,
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """What the options of a load come to on this machine.

    Attributes:
        device: where the weights are to be.
        dtype: of arithmetic; ``auto`` for the model's own.
        quantize: as it was given.
        kv_cache_dtype: as it was given.
        quantization: arguments of `from_pretrained` that keep weights in fewer bits.
        device_map: as it was given.
        shard: as it was given.
        has_native: as it was given; None where a step in C is out of the question.
        keeps_bfloat16: whether weights that are stored in bfloat16 stay in it.
        trusts_code: whether code that comes with the model is run.
    """

    device: str
    dtype: torch.dtype | str
    quantize: str | None
    kv_cache_dtype: str | None
    quantization: Mapping[str, Any]
    device_map: str | Mapping[str, int | str] | None
    shard: Shard | None
    has_native: HasNative | None
    keeps_bfloat16: bool
    trusts_code: bool = False

    @property
    def integers(self) -> IntegerFormat | None:
        """What a step in C rounds the weights to."""
        return ROUNDED.get(self.quantize or "")

    @property
    def is_divided(self) -> bool:
        """See `LoadedModel.is_divided`."""
        return self.device_map is not None or self.shard is not None

    @property
    def num_gpus(self) -> int:
        """Over how many GPUs the model is divided; 1 where it is not."""
        if not self.is_divided or self.device == "cpu":
            return 1
        return self.shard.num_ranks if self.shard is not None else torch.cuda.device_count()

    def check_fit(self, folder: Path, **more: Any) -> Fit:
        """What a model takes, loaded this way; see `llmapi_kit.checkpoints.fit.check_folder`."""
        loaded_as = LOADED_AS.get(self.quantize, self.quantize) if self.quantize else None
        if loaded_as is None and self.dtype != "auto":
            loaded_as = _name(self.dtype)
        stays = self.keeps_bfloat16 and self.integers is None
        return check_folder(folder, self.device, dtype=loaded_as, keeps_bfloat16=stays, **more)

    def placed(self, model: Any) -> Any:
        """A model on the device; one that is quantized or divided is where it shall be."""
        return model if self.quantization or self.is_divided else model.to(self.device)


def _choose(
    spec: ModelSpec,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    kv_cache_dtype: str | None,
    device_map: str | Mapping[str, int | str] | None,
    shard: Shard | None,
    has_native: HasNative | None,
) -> _Way:
    """See `load_model` for the arguments and errors."""
    place = pick_device(device)
    way = _Way(
        place,
        pick_dtype(dtype, place),
        quantize,
        kv_cache_dtype,
        pick_quantization(quantize, place, spec),
        device_map,
        shard,
        has_native if place == "cpu" and device_map is None and shard is None else None,
        keeps_bfloat16=dtype is None and place == "cpu",
    )
    check_kv_cache_dtype(kv_cache_dtype, place)
    if way.has_native is None and (way.integers or kv_cache_dtype):
        raise _without_native(spec, way, "native=False, compile=True and own loaders do without")
    return way


def _without_native(spec: ModelSpec, way: _Way, why: str) -> LlmApiKitError:
    given = f"quantize={way.quantize!r}" if way.quantize else f"kv_cache_dtype={way.kv_cache_dtype!r}"
    return UnsupportedModelError(
        f"{spec.id}: {given} is computed by the compiled step, which {why}. Leave it out, with dtype='bfloat16' to "
        "halve the memory; or load a GGUF file of the model."
    )


def _map_weights(spec: ModelSpec, way: _Way, *, has_tokenizer: bool) -> DecoderWeights | None:
    """The weights for a step in C; None where there is none for them, or where transformers has to judge the files.

    Args:
        spec: of the model.
        way: how it is loaded.
        has_tokenizer: whether the folder's tokenizer is asked for.
    """
    folder = spec.path
    if way.has_native is None or way.trusts_code or folder is None:
        return None
    config = read_decoder_config(folder)
    if config is None:
        return None
    check_files(folder, has_tokenizer=has_tokenizer)
    report("reading weights")
    weights = read_decoder_weights(folder, config)
    if weights is None:
        return None
    if weights.integers is not None and way.integers is not None:
        raise ConfigError(f"{folder} comes in {weights.integers.bits} bits already. Leave quantize out.")
    # Where nothing is asked for, the configuration has a say; another type than the stored one has to be converted to
    wanted = config.dtype if way.keeps_bfloat16 else _name(way.dtype)
    if wanted not in (None, _name(weights.dtype)) and way.integers is None and not config.quantization:
        return None
    arithmetic = torch.float32 if way.keeps_bfloat16 else cast(torch.dtype, way.dtype)  # on a CPU it is always named
    if arithmetic != torch.float32 and config.variant.experts is not None:
        return None  # other roundings than the model's own choose other experts
    stored = way.integers or weights.integers or weights.dtype
    kv_dtype: torch.dtype | None = getattr(torch, way.kv_cache_dtype or "", None)
    return weights if way.has_native(stored, arithmetic, kv_dtype) else None


def _check_model(spec: ModelSpec, way: _Way, *, has_tokenizer: bool) -> Any:
    """The configuration, of a model whose files look right and that can be served through transformers."""
    import_heavy(MODEL_CLASSES)
    if spec.path is None:
        config = read_config(spec.name, spec.name)
    else:
        check_quantization(read_json(spec.path / CONFIG), spec.id, way.device)
        config = read_config(spec.path, spec.name, trusts_code=way.trusts_code)
        check_files(spec.path, has_tokenizer=has_tokenizer)
        check_size(config, spec.path, spec.name, trusts_code=way.trusts_code)
    architecture = (config.architectures or [config.model_type])[0]
    if (way.integers or way.kv_cache_dtype) and architecture not in FAMILIES:
        raise _without_native(spec, way, f"does not know {architecture}")
    return config


def _load_weights(spec: ModelSpec, way: _Way, config: Any, recommended: Recommended) -> Any:
    """The model with its weights, all of which came from its files."""
    own: Any = transformers.GenerationConfig(eos_token_id=list(recommended.eos_ids) or None)  # type: ignore[no-untyped-call]
    options = dict(way.quantization)
    if way.shard is not None:
        options = way.shard.arguments(config, spec.name)
    elif way.device_map is not None:
        options |= {"device_map": way.device_map}
    if way.device == "cpu" and (getattr(config, "quantization_config", None) or {}).get("quant_method") == "mxfp4":
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    auto = auto_class(config)
    with quiet_report():
        model, info = auto.from_pretrained(
            _source(spec),
            config=config,
            generation_config=own,  # else its file is read again, and what is no use there is an error
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else they are an error that names none
            dtype="auto" if way.keeps_bfloat16 else way.dtype,
            trust_remote_code=way.trusts_code,
            **options,
        )
    check_loaded(model, info, spec.name)
    if way.keeps_bfloat16 and model.dtype != torch.bfloat16:
        model = model.to(way.dtype)
    if way.device_map is not None:
        check_placed(model, spec.name)
    return model


def _source(spec: ModelSpec) -> str:
    """What transformers reads from."""
    return str(spec.path or spec.name)


def _name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


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
    return load_tokenizer(_source(spec), f"The tokenizer of {spec.name}", trusts_code=trusts_code)


def _check_before_download(spec: ModelSpec, way: _Way, folder: Path, weights_bytes: int) -> None:
    """Raise `ModelTooLargeError` for a model of the hub whose weights would not fit once they were here."""
    trusts_code = way.trusts_code
    if trusts_code:
        check_code(folder, spec.name)
        trusts_code = brings_code(read_json(folder / CONFIG))
    unpacks = way.has_native is None and way.device == "cpu"
    fit = way.check_fit(folder, weights_bytes=weights_bytes, trusts_code=trusts_code, unpacks=unpacks)
    if not fit.fits_on(way.num_gpus):
        raise ModelTooLargeError(f"{spec.id} was not downloaded, as it would not fit. {fit.advice}")


def _check_fit(spec: ModelSpec, way: _Way, adapter: Adapter | None, num_rows: int, *, unpacks: bool) -> None:
    """Raise `ModelTooLargeError` unless the model fits, the adapter included, on so many GPUs like the first."""
    if spec.path is None:
        return
    added_bytes = adapter.size_bytes if adapter else 0
    options: dict[str, Any] = {"trusts_code": way.trusts_code, "unpacks": unpacks and way.device == "cpu"}
    fit = way.check_fit(spec.path, num_rows=num_rows, added_bytes=added_bytes, **options)
    if not fit.fits_on(way.num_gpus):
        raise ModelTooLargeError(f"{spec.id} does not fit. {fit.advice}")


def _explain(spec: ModelSpec, exc: Exception) -> LlmApiKitError:
    """An error a person can act on, from whatever transformers or the hub raised."""
    if "trust_remote_code" in str(exc):
        return UnsupportedModelError(how_to_trust(spec.id))
    return ModelLoadError(f"{spec.id} could not be loaded: {type(exc).__name__}: {exc}")
