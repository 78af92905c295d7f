"""Loads weights and tokenizer of a Hugging Face model, from a folder or from the hub.

Knows nothing of slots or engines. Blocking and slow: call it from a cell or a worker thread, never on an event loop.
Only safetensors weights are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.hub import cached_file

from llmapi_kit.errors import ConfigError, ModelLoadError
from llmapi_kit.models.fit import check_folder, free_memory
from llmapi_kit.models.hub import check_hub_model
from llmapi_kit.models.spec import ModelSpec

PROGRESS_FROM_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights and tokenizer, ready.

    Attributes:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        device: where the weights are.
        dtype: of the weights, such as ``float32``.
        eos_ids: tokens that end an answer, from the generation configuration.
        context_length: the model's own limit; 0 where it has none.
        sampling_defaults: what its makers recommend: `temperature`, `top_k`, …
    """

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    eos_ids: tuple[int, ...]
    context_length: int
    sampling_defaults: dict[str, float]


def pick_device(device: str | None) -> str:
    """The device to load on: the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: `device` names a GPU that is not there.
    """
    if device is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}, but torch sees no GPU here. Use device='cpu', or choose a GPU runtime.")
    if not device.startswith(("cuda", "cpu")):
        raise ConfigError(f"device={device!r} is not known. Use 'cpu', 'cuda' or 'cuda:0'.")
    return "cuda:0" if device == "cuda" else device


def pick_dtype(dtype: str | None, device: str) -> torch.dtype | str:
    """The type of the weights: as asked for; float32 on a CPU; on a GPU the model's own, or float16 on old cards."""
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None:
        if dtype not in allowed:
            raise ConfigError(f"dtype={dtype!r} is not known. Use one of {', '.join(allowed)}.")
        return allowed[dtype]
    if device == "cpu":
        return torch.float32
    return "auto" if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_model(spec: ModelSpec, *, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load weights and tokenizer.

    Raises:
        ModelNotFoundError: the hub has no such model, or it can't be reached.
        UnsupportedModelError: it has no safetensors weights.
        ModelLoadError: the files are damaged, or do not fit into memory.
        ConfigError: `device` or `dtype` is not known.
    """
    device = pick_device(device)
    torch_dtype = pick_dtype(dtype, device)
    source = str(spec.path or spec.name)
    weights_bytes = None  # not known before a download
    if spec.path is not None:
        fit = check_folder(spec.path, device)
        if not fit.fits:
            raise ModelLoadError(f"{spec.id} does not fit. {fit.advice}")
        weights_bytes = fit.weights_bytes
    else:
        check_hub_model(spec.name, free_memory(device))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        with _progress(weights_bytes is None or weights_bytes >= PROGRESS_FROM_BYTES):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, dtype=torch_dtype, trust_remote_code=False, use_safetensors=True
            )
        model = model.to(device).eval()  # type: ignore[arg-type]  # its stub takes the model for an argument
    except torch.OutOfMemoryError as exc:
        raise ModelLoadError(f"{spec.id} does not fit on {device}: {exc}") from exc
    except Exception as exc:
        raise _explain(spec, exc) from exc
    eos = model.generation_config.eos_token_id
    eos_ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    config = model.config.get_text_config()
    context = int(getattr(config, "max_position_embeddings", None) or 0)
    name = str(model.dtype).removeprefix("torch.")
    return LoadedModel(model, tokenizer, device, name, eos_ids, context, _sampling_defaults(source))


def _sampling_defaults(source: str) -> dict[str, float]:
    """What generation_config.json recommends.

    Read from the file, not from the object: there, greedy decoding can't be told from nothing said.
    """
    try:
        path = cached_file(source, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        config = json.loads(Path(path).read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    if config.get("do_sample") is False:
        return {"temperature": 0.0}
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return {name: config[name] for name in names if isinstance(config.get(name), int | float)}


@contextlib.contextmanager
def _progress(is_shown: bool) -> Iterator[None]:
    """Leave transformers' progress bars on, or switch them off meanwhile: a small model is there at once."""
    were_shown = transformers.utils.logging.is_progress_bar_enabled()
    if were_shown and not is_shown:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if were_shown:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _explain(spec: ModelSpec, exc: Exception) -> ModelLoadError:
    """An error a person can act on, from whatever transformers or the hub raised."""
    if "trust_remote_code" in str(exc):
        return ModelLoadError(f"{spec.id} brings code of its own, which the kit does not run.")
    return ModelLoadError(f"{spec.id} could not be loaded: {type(exc).__name__}: {exc}")
