"""What a load of a GGUF file may be told, checked before anything is loaded. Free of torch and of llama.cpp."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.load_options import check_sampling_names
from llmapi_kit.errors import ConfigError, ModelNotFoundError
from llmapi_kit.places import is_jupyter_kernel

KV_CACHE_DTYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
UNQUANTISED = ("f32", "f16", "bf16")
ROPE_SCALINGS = ("none", "linear", "yarn")
MAX_LAYERS = 10_000
HAS_POSIX = os.name == "posix"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOptions:
    """Options of a load; None where nothing was said.

    Attributes:
        device: ``cpu`` or ``cuda``.
        n_gpu_layers: layers on the GPU; None for all of them, where the library can use one.
        flash_attn: compute attention without its matrix; None where the library can.
        kv_cache_dtype: number format of keys and values; None for ``f16``.
        use_mmap: map the file into memory; None where it can be done.
        use_mlock: keep the weights from being swapped out.
        rope_scaling: ``none``, ``linear`` or ``yarn``, in place of the file's own.
        rope_freq_base: of the rotary embedding, in place of the file's own.
        rope_freq_scale: factor of positions, in place of the file's own: 0.5 doubles the context.
        lora: a LoRA adapter as a GGUF file, which all answers go through; or several by name, each of which answers to
            a name of its own.
        mmproj: the file for pictures that goes with the model; None for the one beside it, False for none.
        isolate: compute in a process of its own; None for whether this is a notebook's kernel.
        sampling: what holds where a request does not say.
    """

    device: str | None = None
    n_gpu_layers: int | None = None
    flash_attn: bool | None = None
    kv_cache_dtype: str | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    lora: str | Mapping[str, str] | None = None
    mmproj: str | bool | None = None
    isolate: bool | None = None
    sampling: Mapping[str, Any] | None = None

    @property
    def is_isolated(self) -> bool:
        """Whether to compute in a process of its own: there, an abort of llama.cpp would end the user's work."""
        return is_jupyter_kernel() and HAS_POSIX if self.isolate is None else self.isolate

    @property
    def merged_adapter(self) -> Path | None:
        """Where the adapter is that all answers go through."""
        return Path(self.lora).expanduser() if isinstance(self.lora, str) else None

    @property
    def shared_adapters(self) -> Mapping[str, str] | None:
        """Adapters to serve beside the model, by name; None where it takes none, as all answers go through one."""
        return self.lora if isinstance(self.lora, Mapping) else {} if self.lora is None else None

    @property
    def adapters(self) -> list[Path]:
        """Where all of them are."""
        merged = [self.merged_adapter] if self.merged_adapter is not None else []
        return [*merged, *(Path(each).expanduser() for each in (self.shared_adapters or {}).values())]

    @property
    def num_gpu_layers(self) -> int | None:
        """Layers on the GPU: none where the device is the CPU."""
        return 0 if self.device == "cpu" else self.n_gpu_layers


OPTIONS = tuple(field.name for field in fields(GgufOptions))


def parse_options(given: Mapping[str, Any]) -> GgufOptions:
    """The options of a load.

    Raises:
        ConfigError: one has a value that can't be used; the message names it.
        ModelNotFoundError: the adapter is not there.
        ModelLoadError: the adapter is not a GGUF file.
    """
    options = GgufOptions(**given)
    _check_choice("device", options.device, ("cpu", "cuda"))
    _check_choice("kv_cache_dtype", options.kv_cache_dtype, KV_CACHE_DTYPES)
    _check_choice("rope_scaling", options.rope_scaling, ROPE_SCALINGS)
    for name in ("flash_attn", "use_mmap", "use_mlock", "isolate"):
        _check_choice(name, getattr(options, name), (True, False))
    for name in ("rope_freq_base", "rope_freq_scale"):
        value = getattr(options, name)
        if value is not None and not (_is_number(value) and math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value!r} can't be used: it must be a number above 0.")
    if options.isolate and not HAS_POSIX:
        raise ConfigError("isolate=True needs Linux or macOS; leave it out.")
    layers = options.n_gpu_layers
    if layers is not None and not (isinstance(layers, int) and _is_number(layers) and -1 <= layers <= MAX_LAYERS):
        raise ConfigError(
            f"n_gpu_layers={layers!r} can't be used: it must be a whole number up to {MAX_LAYERS:,}; -1 is all of them."
        )
    if layers and options.device == "cpu":
        raise ConfigError(f"n_gpu_layers={layers} contradicts device='cpu'; leave one out.")
    if options.flash_attn is False and options.kv_cache_dtype not in (None, *UNQUANTISED):
        raise ConfigError(f"kv_cache_dtype={options.kv_cache_dtype!r} needs flash attention; leave flash_attn out.")
    check_sampling_names(options.sampling)
    _check_adapter(options)
    _check_mmproj(options.mmproj)
    return options


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value is not None and not any(value is each or (isinstance(value, str) and value == each) for each in choices):
        raise ConfigError(f"{name}={value!r} is not known for a GGUF file. Use {', '.join(map(repr, choices))}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_adapter(options: GgufOptions) -> None:
    from llmapi_kit.checkpoints.gguf_header import check_gguf_begin  # which needs numpy

    lora = options.lora
    for adapter in lora.values() if isinstance(lora, Mapping) else [] if lora is None else [lora]:
        check_gguf_begin(adapter_path(adapter))


def _check_mmproj(mmproj: Any) -> None:
    if mmproj is None or mmproj is False:
        return
    if not isinstance(mmproj, str):
        raise ConfigError(f"mmproj={mmproj!r} is not known. Use the path of a GGUF file, or False to take no pictures.")
    path = Path(mmproj).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"There is no mmproj file {mmproj!r}.")
    from llmapi_kit.checkpoints.gguf_header import check_gguf_begin  # which needs numpy

    check_gguf_begin(path)


def adapter_path(lora: Any) -> Path:
    """Where an adapter is.

    Raises:
        ConfigError: it is not a file, but something else.
        ModelNotFoundError: it is not there.
    """
    if not isinstance(lora, str):
        raise ConfigError(f"lora={lora!r} is not known. Use a LoRA adapter as a GGUF file.")
    path = Path(lora).expanduser()
    if path.is_dir():
        raise ConfigError(
            f"lora={lora!r} is a folder. On a GGUF file goes an adapter that is one too: convert it with llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    if not path.is_file():
        raise ModelNotFoundError(f"There is no LoRA adapter {lora!r}.")
    return path
