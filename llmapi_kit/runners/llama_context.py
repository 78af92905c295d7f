"""What llama.cpp computes with beside the weights: KV memory for several sequences, and buffers. Free of torch."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmapi_kit.errors import ModelLoadError, ModelTooLargeError, UnsupportedModelError
from llmapi_kit.runners import libllama
from llmapi_kit.runners.llama_model import LlamaModel

MAX_SLOTS = 256  # of the library
STREAM_UNIT = 256  # cells of a stream of KV memory are a multiple of this
BATCH_TOKENS, MICRO_BATCH_TOKENS = 2048, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """How keys, values and positions are computed.

    Attributes:
        flash_attn: compute attention without its matrix; None where the library can and that is not slower.
        kv_cache_dtype: number format of keys and values; quantised ones need `flash_attn`.
        rope_scaling: ``none``, ``linear`` or ``yarn``; None for what the file says, as for the two below.
        rope_freq_base: of the rotary embedding.
        rope_freq_scale: factor of positions: 0.5 doubles the context.
        n_ubatch: tokens that are computed together at most; all those of a picture whose parts see each other.
    """

    flash_attn: bool | None = None
    kv_cache_dtype: str = "f16"
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    n_ubatch: int = MICRO_BATCH_TOKENS

    @property
    def is_flash(self) -> bool | None:
        """Whether attention goes without its matrix; None for the library's own choice.

        With keys and values in float32 it makes a step of a small model five times as long, on a CPU.
        """
        return False if self.flash_attn is None and self.kv_cache_dtype == "f32" else self.flash_attn


class LlamaContext:
    """KV memory and buffers, until `close`.

    Args:
        model: with its weights and adapters.
        num_slots: sequences held at once, each in a stream of its own.
        max_length: tokens a slot can hold.
        num_outputs: rows of output that one call may give.
        num_threads: CPU threads of a call.
        options: of the computation.

    Attributes:
        handle: the context's address; only for calls into the library.
        memory: address of its KV memory.

    Raises:
        ModelTooLargeError: there is no memory for it.
        UnsupportedModelError: the model can't be run this way; the message says why.
        ModelLoadError: the adapters can't be applied.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        num_slots: int,
        max_length: int,
        num_outputs: int,
        num_threads: int,
        options: ContextOptions,
    ) -> None:
        self._model = model  # which has to be there as long as this
        self._merged = model.adapters
        library: Any = model.library
        params = library.llama_context_default_params()
        params.n_seq_max = num_slots
        params.n_ctx = num_slots * stream_length(max_length)
        params.n_batch = min(BATCH_TOKENS, params.n_ctx)
        params.n_ubatch = options.n_ubatch
        params.n_outputs_max = params.n_outputs_max_per_seq = num_outputs
        params.n_threads = params.n_threads_batch = num_threads
        params.pooling_type = libllama.NO_POOLING
        params.kv_unified = False
        if (is_flash := options.is_flash) is not None:
            params.flash_attn_type = int(is_flash)
        params.type_k = params.type_v = libllama.KV_TYPES[options.kv_cache_dtype]
        if options.rope_scaling is not None:
            params.rope_scaling_type = libllama.ROPE_SCALING[options.rope_scaling]
        params.rope_freq_base = options.rope_freq_base or 0
        params.rope_freq_scale = options.rope_freq_scale or 0
        libllama.take_errors()
        name = model.path.name
        self.handle = library.llama_init_from_model(model.handle, params)
        if not self.handle:
            why = libllama.take_errors()
            if "alloc" in why:
                raise ModelTooLargeError(
                    f"llama.cpp has no memory for {num_slots} requests of {max_length} tokens of {name}: {why}. "
                    "Set max_slots, context_length or kv_cache_dtype='q8_0'."
                )
            raise UnsupportedModelError(f"llama.cpp can't run {name} this way: {why}.")
        self._free = weakref.finalize(self, library.llama_free, self.handle)
        self._free.atexit = False  # the process gives its memory back by itself
        self.memory = library.llama_get_memory(self.handle)
        if not self.memory:
            self.close()
            raise UnsupportedModelError(f"{name} has no KV memory, so it can't continue a text.")
        if self._merged:
            self.apply([])

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._free()

    def apply(self, adapters: Sequence[int]) -> None:
        """Compute with some adapters from now on, beside those that the model was loaded with.

        Args:
            adapters: their addresses.

        Raises:
            ModelLoadError: that can't be.
        """
        all_of_them = [*self._merged, *adapters]
        addresses = (ctypes.c_void_p * len(all_of_them))(*all_of_them)
        scales = (ctypes.c_float * len(all_of_them))(*[1.0] * len(all_of_them))
        if self._model.library.llama_set_adapters_lora(self.handle, addresses, len(all_of_them), scales):
            self.close()
            raise ModelLoadError(f"llama.cpp can't apply the adapters of {self._model.path.name}.")


def stream_length(max_length: int) -> int:
    """Cells of KV memory that a slot of so many tokens takes."""
    return -(-max_length // STREAM_UNIT) * STREAM_UNIT
