"""Embedding models and rerankers as a source of engines; see `llmapi_kit.loading.sources.Source`.

A folder says what it is; a model of the hub is downloaded first. What computes is imported when an engine is made.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.embedding_config import (
    MODULES,
    EmbeddingConfig,
    check_embedding_options,
    is_embedding_folder,
    read_embedding_config,
)
from llmapi_kit.checkpoints.fit import MemoryNeed, free_memory
from llmapi_kit.checkpoints.heavy_imports import LOCAL_MODELS, MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.hub_cache import ModelCache, cached_folder
from llmapi_kit.checkpoints.load_options import check_device, check_dtype
from llmapi_kit.checkpoints.model_files import TOKENIZER_FILES, WEIGHTS
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import LlmApiKitError, MissingDependencyError, ModelTooLargeError, UnsupportedModelError
from llmapi_kit.loading.load_failure import load_error
from llmapi_kit.types import EngineInfo

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.embedding_weights import EncoderWeights
    from llmapi_kit.runners.torch_encoder import TorchEncoder

OPTIONS = ("device", "dtype", "pooling", "normalize", "prompts", "default_prompt_name", "matryoshka_dimensions")
SETTINGS = ("context_length", "num_threads", "max_queue", "download_stall_s", "step_timeout_s")
HUB_FILES = ("*.json", WEIGHTS, "model-*.safetensors", *TOKENIZER_FILES, "*_*/*.json", f"*_*/{WEIGHTS}")
EMBEDDING_NAME = re.compile(
    r"embed|rerank|text2vec|simcse|^sentence-transformers/|(^|[/-])(bge|e5|gte|m3e|potion)-", re.IGNORECASE
)
# What a batch's states take beside the weights
SCRATCH_BYTES = 100_000_000


class EmbeddingSource:
    """A model that makes vectors, or scores pairs of texts."""

    options: tuple[str, ...] | None = OPTIONS
    settings = SETTINGS
    is_light = False

    def check(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        """See `Source.check`."""
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependencyError(package, "torch", f"Loading {spec.id}")
        check_device(options.get("device"))
        check_dtype(options.get("dtype"))
        check_embedding_options(options)
        if spec.kind not in ("folder", "hub"):
            raise UnsupportedModelError(
                f"{spec.name!r} is not an embedding model that runs here. Name a folder or a model of the hub."
            )
        if (folder := _folder_here(spec)) is not None:
            read_embedding_config(folder, spec.name, options)

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> MemoryNeed:
        """See `Source.memory_need`; unknown for what is to be downloaded first."""
        folder = _folder_here(spec)
        if folder is None:
            return MemoryNeed()
        import_heavy(LOCAL_MODELS)
        from llmapi_kit.checkpoints.device_choice import pick_device

        config = read_embedding_config(folder, spec.name, options)
        needed = _weights_bytes(config) + SCRATCH_BYTES
        place = "cpu" if config.kind == "static" else pick_device(options.get("device"))
        return MemoryNeed(place, needed, needed, needed)

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> Engine:
        """See `Source.make_engine`."""
        import_heavy(LOCAL_MODELS)
        try:
            folder = _folder_here(spec) or _download(spec.name, settings.download_stall_s)
            config = read_embedding_config(folder, spec.name, options)
            if config.kind != "static":
                import_heavy(MODEL_CLASSES)
            return _make_engine(spec, config, settings, options)
        except LlmApiKitError:
            raise
        except Exception as exc:  # whatever a model's files make of the libraries that read them
            raise load_error(spec.name, exc) from exc

    def capabilities(self, spec: ModelSpec, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What the engine will be able to do; empty where that is not known before it is loaded."""
        folder = _folder_here(spec)
        return () if folder is None else _capabilities(read_embedding_config(folder, spec.name, options))


def is_embedding_model(spec: ModelSpec) -> bool:
    """Whether a name can only mean an embedding model or a reranker.

    Files on this machine tell that; of a model of the hub that is not here, its name has to.
    """
    if spec.kind == "folder" and spec.path is not None:
        return is_embedding_folder(spec.path)
    if spec.kind != "hub":
        return False
    folder = cached_folder(spec.name) or _folder_here(spec)
    return is_embedding_folder(folder) if folder is not None else EMBEDDING_NAME.search(spec.name) is not None


def _folder_here(spec: ModelSpec) -> Path | None:
    """The folder of a model that is on this machine whole; of one of the hub, where that shows without asking it.

    What was downloaded as a language model lacks the files of sentence-transformers.
    """
    if spec.path is not None or spec.kind != "hub":
        return spec.path
    folder = ModelCache(spec.name).newest
    return folder if folder is not None and (folder / MODULES).is_file() else None


def _download(name: str, stall_s: float) -> Path:
    from llmapi_kit.checkpoints.download import find_folder

    return find_folder(name, "embedding model", HUB_FILES, stall_s)


def _make_engine(spec: ModelSpec, config: EmbeddingConfig, settings: Settings, options: Mapping[str, Any]) -> Engine:
    from llmapi_kit.checkpoints.device_choice import pick_device
    from llmapi_kit.checkpoints.embedding_weights import load_encoder
    from llmapi_kit.engines.embedding.engine import EmbeddingEngine
    from llmapi_kit.engines.embedding.text_reader import TextReader

    device = "cpu" if config.kind == "static" else pick_device(options.get("device"))
    needed, free = _weights_bytes(config) + SCRATCH_BYTES, free_memory(device)
    if needed > free:
        raise ModelTooLargeError(
            f"{spec.id} does not fit: it takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free on "
            f"{device}."
        )
    loaded = load_encoder(config, spec.name, device=options.get("device"), dtype=options.get("dtype"))
    encoder = _encoder(config, loaded, settings)
    reader = TextReader(
        loaded.tokenizer,
        encoder.max_length,
        prompts=config.prompts,
        default_prompt=config.default_prompt,
        pools_prompt=config.pools_prompt,
        adds_special=config.kind != "static",
        render_pair=loaded.render,
    )
    makes_vectors = config.kind != "reranker"
    info = EngineInfo(
        id=spec.id,
        context_length=encoder.max_length,
        created=int(time.time()),
        description=_describe(spec, config, encoder.size),
        capabilities=_capabilities(config),
        num_parameters=encoder.num_parameters,
        device=encoder.device,
        dtype=encoder.dtype,
        embedding_size=encoder.size if makes_vectors else 0,
        embedding_sizes=tuple(size for size in config.dimensions if size <= encoder.size) if makes_vectors else (),
        prompts=tuple(config.prompts),
    )
    return EmbeddingEngine(info, encoder, reader, settings)


def _encoder(config: EmbeddingConfig, loaded: EncoderWeights, settings: Settings) -> TorchEncoder:
    import torch

    from llmapi_kit.runners.torch_encoder import LogitReranker, Reranker, StaticEncoder, TransformerEncoder

    if config.kind == "static":
        encoder: TorchEncoder = StaticEncoder(loaded.model, loaded.layers)
        encoder.max_length = settings.context_length
        return encoder
    limits = [limit for limit in (loaded.max_length, settings.context_length) if limit]
    place: dict[str, Any] = {
        "max_length": min(limits, default=0),
        "pad_id": loaded.pad_id,
        "device": loaded.device,
        "num_threads": settings.num_threads,
    }
    if config.kind == "reranker":
        activation, score = getattr(torch.nn, config.activation)(), config.logit_score
        if score is not None:
            return LogitReranker(loaded.model, activation, true_id=score.true_id, false_id=score.false_id, **place)
        return Reranker(loaded.model, activation, **place)
    return TransformerEncoder(loaded.model, loaded.layers, config.pooling, **place)


def _capabilities(config: EmbeddingConfig) -> tuple[str, ...]:
    if config.kind == "reranker":
        return ("rerank",)
    return ("embeddings", "dimensions", "rerank") if config.dimensions else ("embeddings", "rerank")


def _describe(spec: ModelSpec, config: EmbeddingConfig, size: int) -> str:
    if spec.name == "pocket-embed":
        return "The small embedding model that ships with the kit: word vectors for English and some Chinese."
    if config.kind == "reranker":
        return f"A reranker from {spec.name}: it scores pairs of texts, and writes none."
    how = "the mean of word vectors"
    if config.kind != "static":
        how = f"pooling of the kind {' and '.join(config.pooling)}"
    return f"An embedding model from {spec.name}: vectors of {size} numbers, by {how}."


def _weights_bytes(config: EmbeddingConfig) -> int:
    return sum(file.stat().st_size for file in config.folder.glob("*.safetensors"))
