"""Loads the weights and the tokenizer of embedding models and rerankers: safetensors only, and no code of theirs.

Knows nothing of engines. Blocking: call it from a cell or a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from llmapi_kit.checkpoints.checkpoint_check import check_loaded, quiet_report
from llmapi_kit.checkpoints.device_choice import pick_device, pick_dtype
from llmapi_kit.checkpoints.embedding_config import EmbeddingConfig, Layer, LogitScore
from llmapi_kit.checkpoints.model_files import (
    CONFIG,
    WEIGHTS,
    check_file,
    check_files,
    read_json,
    read_safetensors_head,
)
from llmapi_kit.checkpoints.reported_bar import reported_bars
from llmapi_kit.checkpoints.vocabulary import load_tokenizer
from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.progress import report

# Families whose table of positions begins after the padding's
ROBERTA_LIKE = ("camembert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "mpnet")
NO_LIMIT = 10**9  # tokenizers without one say 10**30


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Weights and tokenizer, ready.

    Attributes:
        model: of transformers, in evaluation mode; or the table of word vectors (vocabulary, size).
        layers: what pooled vectors go through.
        tokenizer: without truncation and padding.
        render: makes the text that a pair is read as, with a prompt before it; None where pairs are read as they are.
        max_length: tokens that an input may have; 0 for no limit.
        pad_id: that fills shorter rows up.
        device: where the weights are.
    """

    model: Any
    layers: torch.nn.Sequential
    tokenizer: Tokenizer
    max_length: int
    pad_id: int
    device: str
    render: Callable[[str, str, str], str] | None = None


def load_encoder(
    config: EmbeddingConfig, name: str, *, device: str | None = None, dtype: str | None = None
) -> EncoderWeights:
    """Load what a folder describes.

    Args:
        config: see `read_embedding_config`.
        name: the model's, for messages.
        device: as for `load_model`.
        dtype: as for `load_model`.

    Raises:
        ModelLoadError: a file is damaged, or weights are missing.
        UnsupportedModelError: it has pickle weights, code of its own, or a tokenizer without a fast version.
    """
    place = "cpu" if config.kind == "static" else pick_device(device)
    layers = torch.nn.Sequential(*(_layer(layer) for layer in config.layers)).eval()
    if config.kind == "static":
        return EncoderWeights(_table(config.folder), layers, _static_tokenizer(config.folder), 0, 0, place)
    _check_weights(config.folder, name)
    check_files(config.folder)
    report("reading weights")
    tokenizer = load_tokenizer(str(config.folder), f"The tokenizer of {name}")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModelError(f"{name} can't be served: its tokenizer has no fast version (tokenizer.json).")
    model = _model(config, name, pick_dtype(dtype, place)).to(place).eval()
    pad_id = next((i for i in (tokenizer.pad_token_id, model.config.pad_token_id) if i is not None), 0)
    if config.kind == "reranker" and model.config.pad_token_id is None:
        model.config.pad_token_id = pad_id  # decoders find the last token by it
    limit = _max_length(config, model.config, tokenizer)
    plain = _plain(backend, config.lowercases)
    render = None if config.logit_score is None else _pair_template(tokenizer, config.logit_score, model, name)
    return EncoderWeights(model, layers.to(place), plain, limit, pad_id, place, render)


def _model(config: EmbeddingConfig, name: str, dtype: torch.dtype | str) -> Any:
    auto: Any = transformers.AutoModelForSequenceClassification if config.kind == "reranker" else transformers.AutoModel
    if config.logit_score is not None:
        auto = transformers.AutoModelForCausalLM
    with quiet_report(), reported_bars():
        try:
            model, info = auto.from_pretrained(
                config.folder,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=dtype,
            )
        except Exception as exc:  # whatever a model's files make transformers raise
            if "trust_remote_code" in str(exc):
                raise UnsupportedModelError(f"{name} brings code of its own, which the kit does not run.") from exc
            raise ModelLoadError(f"{name} could not be loaded: {type(exc).__name__}: {exc}") from exc
    if config.kind == "transformer":
        # Vectors come from the states of tokens: what stands above them in training is no use here
        missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
        info = {**info, "missing_keys": missing, "unexpected_keys": ()}
    check_loaded(model, info, name)
    return model


def _pair_template(tokenizer: Any, score: LogitScore, model: Any, name: str) -> Callable[[str, str, str], str]:
    """What renders a prompt, a query and a document through a chat template.

    Raises:
        UnsupportedModelError: the template leaves one of the two texts out.
        ModelLoadError: the tokens of the score are not in the vocabulary.
    """
    if max(score.true_id, score.false_id or 0) >= model.config.get_text_config().vocab_size:
        raise ModelLoadError(f"{name}: its LogitScore has a token that is not in the vocabulary.")

    def render(prompt: str, query: str, document: str) -> str:
        parts = {"system": prompt, "query": query, "document": document}
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if score.is_structured else text}
            for role, text in parts.items()
            if text or role != "system"
        ]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **score.template_options))

    try:
        tried = render("", "the query", "the document")
    except Exception as exc:  # whatever a template raises
        raise UnsupportedModelError(f"{name} can't be served: its chat template fails on a pair: {exc}") from exc
    if "the query" not in tried or "the document" not in tried:
        raise UnsupportedModelError(
            f"{name} can't be served: its chat template leaves out messages of the roles query and document."
        )
    return render


def _max_length(config: EmbeddingConfig, of_model: Any, tokenizer: Any) -> int:
    positions = getattr(of_model, "max_position_embeddings", None) or 0
    if positions > 0 and of_model.model_type in ROBERTA_LIKE:
        positions -= (of_model.pad_token_id or 0) + 1
    told = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else 0
    return min((limit for limit in (config.max_length or told, positions) if limit > 0), default=0)


def _plain(backend: Tokenizer, lowercases: bool) -> Tokenizer:
    """A tokenizer that cuts nothing off and fills nothing up, whatever its file says."""
    made = Tokenizer.from_str(backend.to_str())
    made.no_truncation()
    made.no_padding()
    if lowercases:
        made.normalizer = Normalizers([Lowercase(), *([made.normalizer] if made.normalizer is not None else [])])
    return made


def _static_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    check_file(path)
    try:
        return _plain(Tokenizer.from_file(str(path)), lowercases=False)
    except Exception as exc:  # the library raises this very class
        raise ModelLoadError(f"{path} can't be read: {exc}") from exc


def _table(folder: Path) -> torch.Tensor:
    """A vector a token, with model2vec's mapping and weights taken into it."""
    _check_weights(folder, folder.name)
    read_safetensors_head(folder / WEIGHTS)
    stored = load_file(folder / WEIGHTS)
    table = stored.get("embedding.weight", stored.get("embeddings"))
    if table is None or table.ndim != 2:
        raise ModelLoadError(
            f"{folder / WEIGHTS} has no table of word vectors: neither embeddings nor embedding.weight."
        )
    table = table.float()
    if (mapping := stored.get("mapping")) is not None:
        table = table[mapping.long()]
    if (weights := stored.get("weights")) is not None:
        table = table * weights.float().unsqueeze(-1)
    return table.contiguous()


def _layer(layer: Layer) -> torch.nn.Module:
    if layer.kind == "normalize":
        return _Normalize()
    _check_weights(layer.folder, layer.folder.name)
    stored = {name: tensor.float() for name, tensor in load_file(layer.folder / WEIGHTS).items()}
    config = read_json(layer.folder / CONFIG)
    try:
        if layer.kind == "layer_norm":
            norm = torch.nn.LayerNorm(int(config["dimension"]))
            norm.load_state_dict(_without("norm.", stored))
            return norm
        return _Dense(config, stored, layer)
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise ModelLoadError(f"{layer.folder} can't be loaded: {exc}") from exc


class _Normalize(torch.nn.Module):
    """Length 1; a vector of zeros stays one."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)


class _Dense(torch.nn.Module):
    """A linear layer, with its activation and what is added to it."""

    def __init__(self, config: dict[str, Any], stored: dict[str, torch.Tensor], layer: Layer) -> None:
        super().__init__()
        sizes = int(config["in_features"]), int(config["out_features"])
        self.linear = torch.nn.Linear(*sizes, bias=config.get("bias") is not False)
        self.linear.load_state_dict(_without("linear.", stored))
        self.activation = getattr(torch.nn, layer.activation)()
        self.residual: torch.nn.Module | None = None
        if layer.has_residual:
            self.residual = torch.nn.Identity() if sizes[0] == sizes[1] else torch.nn.Linear(*sizes, bias=False)
            self.residual.load_state_dict(_without("residual.", stored))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.activation(self.linear(vectors))
        return made if self.residual is None else made + self.residual(vectors)


def _without(prefix: str, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def _check_weights(folder: Path, name: str) -> None:
    """Raise where a folder has pickle weights only."""
    pickles: Sequence[Path] = sorted(folder.glob("*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise UnsupportedModelError(
            f"{name} has only pickle weights ({pickles[0].name}), which can run code when loaded. Convert them to "
            "safetensors first: SentenceTransformer(…).save_pretrained(folder)."
        )
