"""A GGUF file as llama.cpp has it in memory: its weights, or its vocabulary alone.

Knows nothing of slots, and believes that `llmapi_kit.checkpoints.gguf_header` has looked at the file before. Blocking.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.progress import report
from llmapi_kit.runners import libllama

_loading = threading.RLock()  # what the library says of errors does not say of which load


class LlamaModel:
    """A model in memory, until `close` or until nobody holds it any more.

    Args:
        path: of the GGUF file; of one in several parts, the first.
        has_weights: False loads the vocabulary alone, which takes a fraction of the memory.
        n_gpu_layers: how many layers go to the GPU, where the library can use one; None for all of them.
        use_mmap: map the file into memory, so that what is not used need not be there; None where it can be done.
        use_mlock: keep the weights from being swapped out.
        is_repacked: let the library store weights anew as the machine computes with them best.
        lora: LoRA adapters as GGUF files, which all apply.

    Attributes:
        library: libllama.
        handle: the model's address; only for calls into the library.
        vocab: address of the vocabulary.
        adapters: addresses of the adapters.

    Raises:
        ModelLoadError: llama.cpp can't load it; the message has what it says.
        UnsupportedModelError: it is not a model that continues a text.
        ConfigError: there is no libllama that is known here.
        MissingDependencyError: there is none at all.
    """

    def __init__(
        self,
        path: Path,
        *,
        has_weights: bool = True,
        n_gpu_layers: int | None = None,
        use_mmap: bool | None = None,
        use_mlock: bool = False,
        is_repacked: bool = True,
        lora: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self.library: Any = libllama.load_libllama()
        params = self.library.llama_model_default_params()
        params.vocab_only = not has_weights
        params.n_gpu_layers = -1 if n_gpu_layers is None else n_gpu_layers
        params.use_extra_bufts = is_repacked
        if use_mmap is not None or use_mlock:
            is_mapped = use_mmap is not False
            modes = {True: libllama.MMAP_MLOCK, False: libllama.MLOCK}
            params.load_mode = modes[is_mapped] if use_mlock else libllama.MMAP if is_mapped else libllama.NO_MMAP
        size = path.stat().st_size

        def tell(fraction: float, _data: int | None) -> bool:
            report("reading weights", done=fraction * size, total=size, unit="B")
            return True

        callback = libllama.PROGRESS(tell)
        if has_weights:
            params.progress_callback = ctypes.cast(callback, ctypes.c_void_p)
        with _loading:
            libllama.take_errors()
            self.handle = self.library.llama_model_load_from_file(str(path).encode(), params)
            if not self.handle:
                raise ModelLoadError(f"llama.cpp can't load {path.name}: {libllama.take_errors()}.")
            self._free = weakref.finalize(self, self.library.llama_model_free, self.handle)
            self._free.atexit = False  # the process gives its memory back by itself
            self.vocab = self.library.llama_model_get_vocab(self.handle)
        self.adapters = [self.load_adapter(each) for each in lora]
        if has_weights:
            self._check_kind()

    @property
    def size_bytes(self) -> int:
        """Of all weights."""
        return int(self.library.llama_model_size(self.handle))

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights."""
        return int(self.library.llama_model_n_params(self.handle))

    @property
    def vocab_size(self) -> int:
        """Tokens that there are."""
        return int(self.library.llama_vocab_n_tokens(self.vocab))

    @property
    def keeps_one_state(self) -> bool:
        """Whether it remembers a text as one state that can't go back, wholly or in part: Mamba, RWKV, Jamba."""
        is_recurrent, is_hybrid = self.library.llama_model_is_recurrent, self.library.llama_model_is_hybrid
        return bool(is_recurrent(self.handle) or is_hybrid(self.handle))

    def close(self) -> None:
        """Give the memory back. Nothing that was made from it may be used after. Safe to call twice."""
        self._free()

    def load_adapter(self, path: Path) -> int:
        """Load a LoRA adapter for this model; its address. It goes with the model, or by `free_adapter`.

        Raises:
            ModelLoadError: it is not an adapter, or one of another model.
        """
        with _loading:
            libllama.take_errors()
            handle = self.library.llama_adapter_lora_init(self.handle, str(path).encode())
            why = libllama.take_errors()
        if not handle:
            raise ModelLoadError(f"The adapter {path.name} does not go on {self.path.name}: {why}.")
        return int(handle)

    def free_adapter(self, adapter: int) -> None:
        """Give an adapter's memory back. No context may have it any more."""
        self.library.llama_adapter_lora_free(adapter)

    def _check_kind(self) -> None:
        library, name = self.library, self.path.name
        if library.llama_model_has_encoder(self.handle) or not library.llama_model_has_decoder(self.handle):
            raise UnsupportedModelError(
                f"{name} has an encoder, so it can't continue a text. Only decoders are served."
            )
        if library.llama_model_is_diffusion(self.handle):
            raise UnsupportedModelError(f"{name} writes by diffusion, all of a text at once, which can't be served.")
        if not self.vocab_size:
            raise UnsupportedModelError(f"{name} has no vocabulary, so texts can't be told from its answers.")
