"""Are the options of a load such that it can begin: names, devices, number formats and places, looked at before work.

Free of torch, so that a model that is loaded later is checked at once. Whether there is a GPU is asked when it loads.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.model_files import ADAPTER_CONFIG
from llmapi_kit.checkpoints.remote_code import check_trust
from llmapi_kit.checkpoints.spec import HUB_ID, ModelSpec
from llmapi_kit.errors import ConfigError, MissingDependencyError, ModelNotFoundError

DTYPES = ("float32", "bfloat16", "float16")
KV_CACHE_DTYPES = ("float32", "bfloat16", "int8")
ON_CPU, ON_GPU = ("int8", "int4"), ("8bit", "4bit")  # values of quantize
SAMPLING_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def check_load_options(spec: ModelSpec, options: Mapping[str, Any]) -> None:
    """Raise unless every option of a model that runs here has a value that can be used.

    Args:
        spec: which model.
        options: of `llmapi_kit.checkpoints.weights.load_model`; None as a value means not given.

    Raises:
        ConfigError: a value can't be used.
        ModelNotFoundError: an adapter or a tokenizer is named that is not there.
        MissingDependencyError: a package is not installed.
    """
    check_device(options.get("device"))
    check_dtype(options.get("dtype"))
    check_quantize(options.get("quantize"), options.get("device"), spec)
    check_kv_cache_dtype(options.get("kv_cache_dtype"), options.get("device"))
    check_sampling_names(options.get("sampling"))
    check_revision(options.get("revision"), spec)
    check_trust(options.get("trust_remote_code"), options.get("revision"), spec)
    check_subfolder(options.get("subfolder"), spec)
    lora = options.get("lora")
    for adapter in lora.values() if isinstance(lora, Mapping) else (lora,):
        folder = _place(adapter, "lora", "LoRA adapter")
        if folder is not None and not (folder / ADAPTER_CONFIG).is_file():
            raise ModelNotFoundError(f"{folder} has no {ADAPTER_CONFIG}, so it is not a LoRA adapter in PEFT's format.")
    if options.get("tokenizer") != "pocket":
        _place(options.get("tokenizer"), "tokenizer", "tokenizer")


def check_device(device: Any) -> None:
    """Raise `ConfigError` unless a device has a name that there can be."""
    if device is not None and (not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII)):
        raise ConfigError(f"device={device!r} is not known. Use 'cpu', 'cuda' or 'cuda:0'.")


def check_dtype(dtype: Any) -> None:
    """Raise `ConfigError` unless weights can have that type."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not known. Use one of {', '.join(DTYPES)}.")


def check_quantize(quantize: Any, device: str | None, spec: ModelSpec) -> None:
    """Raise unless weights can be kept in 8 or 4 bits, where that is asked for.

    Raises:
        ConfigError: it is not known, or not possible on this device.
        MissingDependencyError: the package for it is not installed.
    """
    if quantize is None:
        return
    if quantize not in (*ON_CPU, *ON_GPU):
        raise ConfigError(
            f"quantize={quantize!r} is not known. Use 'int8' or 'int4' on a CPU, '8bit' or '4bit' on a GPU, or "
            "leave it out."
        )
    if quantize in ON_CPU:
        if str(device or "cpu").startswith("cuda"):
            raise ConfigError(
                f"quantize={quantize!r} is computed on a CPU. On a GPU, use quantize={_counterpart(quantize)!r}; or "
                "pass device='cpu'."
            )
        return
    if device == "cpu":
        raise ConfigError(
            f"quantize={quantize!r} needs a GPU: bitsandbytes computes it on CUDA only. On a CPU, use "
            f"quantize={_counterpart(quantize)!r}."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", "quant", f"quantize={quantize!r}")


def check_revision(revision: Any, spec: ModelSpec) -> None:
    """Raise `ConfigError` unless a model can have such a version."""
    if revision is None:
        return
    if not isinstance(revision, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision, re.ASCII):
        raise ConfigError(f"revision={str(revision)[:80]!r} is not known. Use a branch, a tag or a commit of the hub.")
    if spec.kind != "hub":
        raise ConfigError(f"revision={revision!r} goes with models of the hub; {spec.name} is a folder.")


def check_subfolder(subfolder: Any, spec: ModelSpec) -> None:
    """Raise `ConfigError` unless a model can be in such a folder of its repository."""
    if subfolder is None:
        return
    if not isinstance(subfolder, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", subfolder, re.ASCII):
        raise ConfigError(f"subfolder={str(subfolder)[:80]!r} is not known. Use a folder of the repository: 'a/b'.")
    if spec.kind != "hub":
        raise ConfigError(
            f"subfolder={subfolder!r} goes with models of the hub. Name the folder itself: '{spec.name}/{subfolder}'."
        )


def _counterpart(quantize: str) -> str:
    """As many bits on the other device."""
    return {**dict(zip(ON_CPU, ON_GPU, strict=True)), **dict(zip(ON_GPU, ON_CPU, strict=True))}[quantize]


def check_kv_cache_dtype(kv_cache_dtype: Any, device: str | None) -> None:
    """Raise `ConfigError` unless keys and values can have that format."""
    if kv_cache_dtype is None:
        return
    if kv_cache_dtype not in KV_CACHE_DTYPES:
        raise ConfigError(f"kv_cache_dtype={kv_cache_dtype!r} is not known. Use one of {', '.join(KV_CACHE_DTYPES)}.")
    if str(device or "cpu").startswith("cuda"):
        raise ConfigError(
            f"kv_cache_dtype={kv_cache_dtype!r} is for models on a CPU; on a GPU keys and values have the format of "
            "dtype. Leave it out."
        )


def check_sampling_names(sampling: Any) -> None:
    """Raise `ConfigError` unless sampling parameters are those that a model can have as its own."""
    if sampling is None:
        return
    if not isinstance(sampling, Mapping):
        raise ConfigError(f"sampling={sampling!r} is not known. Use a dictionary such as {{'temperature': 0.7}}.")
    for name in sampling:
        if name not in SAMPLING_NAMES:
            raise ConfigError(f"sampling has {name!r}; it may have {', '.join(SAMPLING_NAMES)}.")


def _place(value: Any, option: str, what: str) -> Path | None:
    """The folder that an option names; None where nothing is named, or something of the hub."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{option}={value!r} is not known. Use a folder, or a hub name like 'owner/name'.")
    try:
        path = Path(value).expanduser()
        if value and path.is_dir():
            return path
    except (OSError, RuntimeError) as exc:
        raise ConfigError(f"{option}={value[:200]!r} can't be looked at: {exc}.") from exc
    if not HUB_ID.fullmatch(value):
        raise ModelNotFoundError(f"There is no {what} {value!r}: it must be a folder, or a hub name like 'owner/name'.")
    return None
