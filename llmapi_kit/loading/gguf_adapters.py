"""Reads LoRA adapters as GGUF files for a model that is loaded. Blocking; called from whichever thread adds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmapi_kit.checkpoints.fit import free_memory
from llmapi_kit.checkpoints.gguf_decoder import GgufDecoder
from llmapi_kit.checkpoints.gguf_file import GgufFile
from llmapi_kit.checkpoints.gguf_header import GgufHeader, read_header
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
from llmapi_kit.errors import ModelTooLargeError, UnsupportedModelError
from llmapi_kit.loading.gguf_options import adapter_path
from llmapi_kit.runners.load_trial import try_to_load

ALORA = "adapter.alora.invocation_tokens"


class GgufAdapterReader:
    """Reads adapters of one model.

    Args:
        file: of the model.
        options: of `llmapi_kit.runners.llama_context.ContextOptions`, as the model computes with.
    """

    def __init__(self, file: GgufFile, options: Mapping[str, Any]) -> None:
        self._file = file
        self._options = options

    def __call__(self, source: str) -> AdapterFiles:
        """Look an adapter over, and load it where nothing is lost if llama.cpp aborts over it.

        Args:
            source: a GGUF file.

        Raises:
            ModelNotFoundError: there is none.
            ConfigError: it is a folder.
            UnsupportedModelError: it is not a LoRA adapter, or of a kind that can't be shared.
            ModelLoadError: it is damaged, or there is no memory for it.
        """
        header = _read_fitting(source, self._file.architecture)
        try_to_load(self._file.path, lora=[header.path], options=self._options)
        return _described(header, str(header.path))


class NativeGgufAdapterReader:
    """The same for a model that the step in C computes.

    Args:
        decoder: the model.
        architecture: as GGUF names it.
    """

    def __init__(self, decoder: GgufDecoder, architecture: str) -> None:
        self._decoder = decoder
        self._architecture = architecture

    def __call__(self, source: str) -> AdapterFiles:
        """Read an adapter.

        Args:
            source: a GGUF file.

        Raises:
            ModelNotFoundError: there is none.
            ConfigError: it is a folder.
            UnsupportedModelError: it is not a LoRA adapter, of another model, or of a kind that llama.cpp alone takes.
            ModelLoadError: it is damaged, or there is no memory for it.
        """
        from llmapi_kit.checkpoints.gguf_weights import read_gguf_adapter

        header = _read_fitting(source, self._architecture)
        return _described(header, read_gguf_adapter(header, self._decoder))


def _read_fitting(source: str, architecture: str) -> GgufHeader:
    """The head of an adapter that there is memory for and that is for models of an architecture."""
    path = adapter_path(source)
    header = read_header(path)
    size = sum(tensor.size_bytes for tensor in header.tensors.values())
    if size > (free := free_memory("cpu")):
        raise ModelTooLargeError(
            f"The adapter {path.name} takes {size / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free."
        )
    check_adapter(header, architecture)
    return header


def _described(header: GgufHeader, weights: object) -> AdapterFiles:
    size = sum(tensor.size_bytes for tensor in header.tensors.values())
    ranks = (tensor.shape[0] for name, tensor in header.tensors.items() if name.endswith(".lora_a"))
    return AdapterFiles(weights=weights, size_bytes=size, rank=max(ranks, default=0))


def check_adapter(header: GgufHeader, architecture: str) -> None:
    """Raise `UnsupportedModelError` unless a file is a LoRA adapter for models of an architecture."""
    name = header.path.name
    if header.one("general.type") != "adapter" or header.one("adapter.type") != "lora":
        raise UnsupportedModelError(
            f"{name} is not a LoRA adapter. Pass one as a GGUF file, made by convert_lora_to_gguf.py."
        )
    if (theirs := header.one("general.architecture")) != architecture:
        raise UnsupportedModelError(f"{name} is an adapter for {theirs}, and the model is {architecture}.")
    if ALORA in header.metadata:
        raise UnsupportedModelError(f"{name} works from certain tokens on (aLoRA), which is not supported.")
