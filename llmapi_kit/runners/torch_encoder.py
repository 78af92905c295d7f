"""Encoders in torch: a model of transformers whose states are pooled, a table of word vectors, and a reranker.

Weights are read by `llmapi_kit.checkpoints.embedding_weights`. Knows nothing of texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from llmapi_kit.runners.encoder import EncoderInput
from llmapi_kit.runners.pooling import pooled
from llmapi_kit.runners.thread_count import best_num_threads, keep_num_threads

# On a CPU, as many as leave a layer's states in the caches: a text of 55 tokens takes all-MiniLM-L6-v2 17 ms of a core
# (AVX-512) with 512, 22 with 2,048 and 35 with 8,192
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 32_768
# A table is looked up, which takes no time to speak of
TABLE_BATCH_TOKENS = 65_536
MAX_WORKERS = 4
# Above it one batch keeps all cores busy by itself, and two would only push each other out of the caches
LARGE_MODEL_BYTES = 600_000_000


class TorchEncoder(ABC):
    """See `llmapi_kit.runners.encoder.Encoder`: what the classes below have in common.

    Args:
        weights: modules, which are dropped when it is closed.
        device: where they are.
        num_threads: for torch in all; 0 for what it would take itself.
    """

    size = 1
    max_length = 0
    batch_tokens = CPU_BATCH_TOKENS

    def __init__(self, weights: torch.nn.Module, device: str, num_threads: int = 0) -> None:
        self.device = device
        self.dtype = str(next(weights.parameters()).dtype).removeprefix("torch.")
        self.num_parameters = sum(parameter.numel() for parameter in weights.parameters())
        self._weights: torch.nn.Module | None = weights
        size_bytes = sum(each.numel() * each.element_size() for each in weights.parameters())
        available = num_threads or torch.get_num_threads()
        is_split = device == "cpu" and size_bytes < LARGE_MODEL_BYTES
        # Threads that each compute a batch of their own wait for nobody, as those of one operation do for each other
        self.num_workers = min(available, MAX_WORKERS) if is_split else 1
        self._num_threads = 1 if is_split else num_threads or best_num_threads(size_bytes)

    def start(self) -> None:
        """See `Encoder.start`."""
        keep_num_threads(self._num_threads)

    def encode(self, batch: Sequence[EncoderInput]) -> list[list[float]]:
        """See `Encoder.encode`."""
        with torch.inference_mode():
            vectors: list[list[float]] = self._forward(batch).float().cpu().tolist()
            return vectors

    def close(self) -> None:
        """See `Encoder.close`."""
        self._weights = None

    @abstractmethod
    def _forward(self, batch: Sequence[EncoderInput]) -> torch.Tensor:
        """Vectors (batch, size)."""


class TransformerEncoder(TorchEncoder):
    """A model of transformers whose states are pooled.

    Args:
        model: without an output layer.
        layers: what pooled vectors go through.
        modes: of pooling.
        max_length: in tokens.
        pad_id: that fills shorter rows up.
        device: where the weights are.
        num_threads: see `TorchEncoder`.
    """

    def __init__(
        self,
        model: Any,
        layers: torch.nn.Sequential,
        modes: Sequence[str],
        *,
        max_length: int,
        pad_id: int,
        device: str,
        num_threads: int = 0,
    ) -> None:
        super().__init__(torch.nn.ModuleList([model, layers]), device, num_threads)
        self._modes = tuple(modes)
        self.max_length = max_length
        self.batch_tokens = CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS
        self._pad_id = pad_id
        self._options = {"use_cache": False} if getattr(model.config, "use_cache", None) else {}
        self.size = len(self.encode([EncoderInput([pad_id, pad_id])])[0])

    def _forward(self, batch: Sequence[EncoderInput]) -> torch.Tensor:
        model, layers = self._weights  # type: ignore[misc]  # a list of two
        inputs = padded(batch, self._pad_id, self.device)
        states = model(**inputs, **self._options).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        if any(each.num_unpooled for each in batch):
            mask = mask.clone()
            for row, each in enumerate(batch):
                mask[row, : each.num_unpooled] = 0
        vectors: torch.Tensor = layers(pooled(states, mask, self._modes))
        return vectors


class StaticEncoder(TorchEncoder):
    """A table of word vectors, of which a text gets the mean; one without a known word gets a zero vector.

    Args:
        table: (vocabulary, size).
        layers: what the mean goes through.
    """

    batch_tokens = TABLE_BATCH_TOKENS

    def __init__(self, table: torch.Tensor, layers: torch.nn.Sequential) -> None:
        bag = torch.nn.EmbeddingBag.from_pretrained(table.float(), mode="mean")
        super().__init__(torch.nn.ModuleList([bag, layers]), "cpu")
        self.num_workers, self._num_threads = 1, 1
        self.size = len(self.encode([EncoderInput([0])])[0])

    def _forward(self, batch: Sequence[EncoderInput]) -> torch.Tensor:
        bag, layers = self._weights  # type: ignore[misc]  # a list of two
        ids = torch.tensor([token_id for each in batch for token_id in each.ids], dtype=torch.long)
        lengths = torch.tensor([0, *(len(each.ids) for each in batch[:-1])])
        vectors: torch.Tensor = layers(bag(ids, lengths.cumsum(0)))
        return vectors


class Reranker(TorchEncoder):
    """A model of transformers that says of two texts how well they go together.

    Args:
        model: for the classification of sequences, with one label.
        activation: of the score.
        max_length: of a pair, in tokens.
        pad_id: that fills shorter rows up.
        device: where the weights are.
        num_threads: see `TorchEncoder`.
    """

    def __init__(
        self,
        model: Any,
        activation: torch.nn.Module,
        *,
        max_length: int,
        pad_id: int,
        device: str,
        num_threads: int = 0,
    ) -> None:
        super().__init__(model, device, num_threads)
        self._activation = activation
        self.max_length = max_length
        self.batch_tokens = CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS
        self._pad_id = pad_id
        self._has_types = getattr(model.config, "type_vocab_size", 0) > 1

    def _forward(self, batch: Sequence[EncoderInput]) -> torch.Tensor:
        inputs = padded(batch, self._pad_id, self.device, has_types=self._has_types)
        scores: torch.Tensor = self._activation(self._weights(**inputs).logits.float())  # type: ignore[misc]
        return scores


class LogitReranker(Reranker):
    """A decoder that says of two texts how well they go together by its logits of one token, or of two.

    Args:
        true_id: the token that stands for a match.
        false_id: the token whose logit is taken off; None for none.
        options: see `Reranker`.
    """

    def __init__(
        self, model: Any, activation: torch.nn.Module, *, true_id: int, false_id: int | None, **options: Any
    ) -> None:
        super().__init__(model, activation, **options)
        self._true_id, self._false_id = true_id, false_id

    def _forward(self, batch: Sequence[EncoderInput]) -> torch.Tensor:
        """Rows are filled up at their beginning, so that what is asked for stands last in each."""
        length = max(len(each.ids) for each in batch)
        rows = [[self._pad_id] * (length - len(each.ids)) + list(each.ids) for each in batch]
        ids = torch.tensor(rows, device=self.device)
        lengths = torch.tensor([len(each.ids) for each in batch], device=self.device)
        places = torch.arange(length, device=self.device) - (length - lengths)[:, None]
        output = self._weights(  # type: ignore[misc]
            input_ids=ids,
            attention_mask=(places >= 0).long(),
            position_ids=places.clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
        )
        logits = output.logits[:, -1].float()
        scores = logits[:, self._true_id]
        if self._false_id is not None:
            scores = scores - logits[:, self._false_id]
        activated: torch.Tensor = self._activation(scores[:, None])
        return activated


def padded(
    batch: Sequence[EncoderInput], pad_id: int, device: str, *, has_types: bool = False
) -> dict[str, torch.Tensor]:
    """Arguments of a model: a row a sequence, filled up at its end. Rows of one length need no mask."""
    length = max(len(each.ids) for each in batch)
    inputs = {"input_ids": _rows([each.ids for each in batch], length, pad_id)}
    if any(len(each.ids) < length for each in batch):
        inputs["attention_mask"] = _rows([[1] * len(each.ids) for each in batch], length, 0)
    if has_types:
        inputs["token_type_ids"] = _rows([each.type_ids or [0] * len(each.ids) for each in batch], length, 0)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _rows(sequences: Sequence[Sequence[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([[*each, *[filler] * (length - len(each))] for each in sequences], dtype=torch.long)
