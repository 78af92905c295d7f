"""GGUF files as a source of engines; see `llmapi_kit.loading.sources.Source`.

What reads files needs numpy and is imported when there is one to read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.fit import MemoryNeed, fit_need
from llmapi_kit.checkpoints.heavy_imports import LOCAL_MODELS, import_heavy
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import LlmApiKitError, MissingDependencyError, ModelNotFoundError
from llmapi_kit.loading.gguf_options import OPTIONS, parse_options
from llmapi_kit.loading.load_failure import load_error
from llmapi_kit.runners.libllama import find_libllama

SETTINGS = (
    "max_slots",
    "context_length",
    "kv_memory",
    "num_threads",
    "native",
    "step_tokens",
    "default_max_tokens",
    "max_queue",
    "prefix_cache",
    "download_stall_s",
    "step_timeout_s",
)


class GgufSource:
    """A GGUF file, which llama.cpp runs as it is, or the step in C."""

    options: tuple[str, ...] | None = OPTIONS
    settings = SETTINGS
    is_light = False

    def check(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        """See `Source.check`."""
        for package, extra in {"torch": "torch", "transformers": "torch", "gguf": "gguf"}.items():
            if importlib.util.find_spec(package) is None:
                raise MissingDependencyError(package, extra, f"Loading {spec.id}")
        find_libllama()
        from llmapi_kit.checkpoints.gguf_file import parts_of
        from llmapi_kit.checkpoints.gguf_header import check_gguf_begin

        parse_options(options)
        path = _path_here(spec)
        for part in parts_of(path) if path is not None else ():
            check_gguf_begin(part)

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> MemoryNeed:
        """See `Source.memory_need`; unknown for what is to be downloaded first."""
        from llmapi_kit.checkpoints.gguf_file import open_gguf
        from llmapi_kit.loading.gguf_loader import gguf_fit

        path = _path_here(spec)
        if path is None:
            return MemoryNeed("cpu")
        return fit_need(gguf_fit(open_gguf(path), settings, parse_options(options)), settings)

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> Engine:
        """See `Source.make_engine`."""
        parsed = parse_options(options)
        import_heavy(LOCAL_MODELS)
        from llmapi_kit.loading.gguf_loader import load_gguf

        try:
            return load_gguf(spec, _path(spec, settings, has_mmproj=parsed.mmproj is None), settings, parsed)
        except LlmApiKitError:
            raise
        except Exception as exc:  # whatever a file makes of the libraries that read it
            raise load_error(spec.name, exc) from exc


def _path_here(spec: ModelSpec) -> Path | None:
    """Where the file is; None while it is on the hub."""
    if spec.path is not None or spec.gguf is None:
        return spec.path
    from llmapi_kit.checkpoints.gguf_hub import cached_gguf

    return cached_gguf(spec.gguf)


def _path(spec: ModelSpec, settings: Settings, *, has_mmproj: bool) -> Path:
    """Where the file is, downloaded if it has to be."""
    path = _path_here(spec)
    if path is not None:
        return path
    if spec.gguf is None:
        raise ModelNotFoundError(f"{spec.name} is not a GGUF file on this machine.")
    from llmapi_kit.checkpoints.gguf_hub import download_gguf

    return download_gguf(spec.gguf, settings.download_stall_s, has_mmproj=has_mmproj)
