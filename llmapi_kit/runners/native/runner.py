"""Runs a Llama-like decoder over slots from its weights alone: no model of transformers is made for it.

Knows nothing of requests, sampling or text. Used on the engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from llmapi_kit.checkpoints.cache_size import PAGE_SIZE, pages_of
from llmapi_kit.checkpoints.decoder_families import FAMILIES
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.integer_weights import IntegerMatrix
from llmapi_kit.checkpoints.low_rank import Changes
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.mean_states import MeanStates
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.reference import last_logits
from llmapi_kit.runners.native.sequence_lengths import SequenceLengths
from llmapi_kit.runners.self_check import check_prompts, check_steps
from llmapi_kit.runners.short_spans import short_windows, shortened
from llmapi_kit.runners.thread_count import best_num_threads


class NativeRunner:
    """See `llmapi_kit.runners.base.Runner`.

    Args:
        weights: which leave as they are packed.
        num_slots: sequences held at once.
        max_length: tokens a slot can hold.
        dtype: of arithmetic; `NativeDecoder.is_available` says which go with the weights' own.
        kv_dtype: of keys and values; None for that of arithmetic.
        num_threads: CPU threads of a step; 0 chooses by the model's size.
        num_pages: see `PagedRunner`; None for what all slots can fill.

    Attributes:
        page_size: see `PagedRunner`.

    Raises:
        UnsupportedModelError: the compiled step computes something else than the reference.
        ModelLoadError: the weights are not finite numbers.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        *,
        num_slots: int,
        max_length: int,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
        num_threads: int = 0,
        num_pages: int | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.max_length = max_length
        self.page_size = PAGE_SIZE
        self.num_pages = num_pages or pages_of(num_slots, max_length)
        self.vocab_size = weights.vocab_size
        self._num_threads = num_threads or best_num_threads(weights.num_bytes)
        self._means = MeanStates()
        prompts = check_prompts(self.vocab_size, max_length, num_slots)
        windows = shortened(list(weights.config.windows), max_length)
        lengths = _by_length(weights, num_slots, max_length, len(prompts[0]) - 1)  # so that the first one is long
        are_long = [lengths is not None and lengths.is_long(len(ids)) for ids in prompts]
        expected = torch.cat(
            [
                last_logits(weights, ids, self._num_threads, windows, is_long=is_long)
                for ids, is_long in zip(prompts, are_long, strict=True)
            ]
        )
        if not bool(torch.isfinite(expected).all()):
            raise _not_finite(weights)
        self._decoder = NativeDecoder(
            weights,
            num_slots=num_slots,
            max_length=max_length,
            num_threads=num_threads or torch.get_num_threads(),
            dtype=dtype,
            kv_dtype=kv_dtype,
        )
        self._lengths = lengths
        name = weights.config.architecture
        if not dtype == (kv_dtype or dtype) == torch.float32:
            expected = expected.bfloat16()  # by whose type the check knows how far apart they may be
        with short_windows(self._decoder, max_length):
            check_steps(self.step, prompts, expected, name, " It may be with native=False.")
        self._lengths = _by_length(weights, num_slots, max_length)

    @property
    def kv_bytes(self) -> int:
        """Size of the KV memory in bytes."""
        return self._decoder.num_bytes

    @property
    def kind(self) -> Literal["native"]:
        """See `TorchRunner.kind`."""
        return "native"

    def start(self) -> None:
        """See `Runner.start`. OpenMP's thread count belongs to the calling thread, so cells keep theirs."""
        torch.set_num_threads(self._num_threads)

    def add_adapter(self, adapter: int, weights: Changes) -> None:
        """See `AdapterRunner.add_adapter`."""
        self._decoder.adapters.add(adapter, weights)

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        self._decoder.adapters.remove(adapter)

    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """See `Runner.step`."""
        return self._compute(items) if self._lengths is None else self._lengths.step(items, self._compute)

    def _compute(self, items: Sequence[StepItem], are_long: Sequence[bool] = ()) -> torch.Tensor:
        logits, states, pooled = self._decoder.step(items, are_long=are_long)
        self._means.add(pooled, states)
        return logits

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`. There is nothing to mend."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._decoder.copy_prefix(source, target, length)
        if self._lengths is not None:
            self._lengths.copy_prefix(source, target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. KV memory stays as it is, for prompts that begin alike."""
        self._means.free(slot)

    def trim(self, slot: int, length: int) -> None:
        """See `PagedRunner.trim`."""
        self._decoder.trim(slot, length)

    @torch.inference_mode()
    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        return self._means.mean(slot)

    def close(self) -> None:
        """See `Runner.close`."""
        self._decoder.close()
        self._means.clear()
        del self._decoder


def _by_length(
    weights: DecoderWeights, num_slots: int, max_length: int, longest: int | None = None
) -> SequenceLengths | None:
    """What tells long sequences from short ones, which are up to `longest` for a check; None where all are alike."""
    original = weights.original_length
    if not 0 < original < max_length:
        return None
    starts_anew = FAMILIES[weights.config.architecture].starts_anew
    return SequenceLengths(min(longest or original, original), starts_anew=starts_anew, num_slots=num_slots)


def _not_finite(weights: DecoderWeights) -> LlmApiKitError:
    """Why the logits are not numbers."""
    name = weights.config.architecture
    broken = [key for key, weight in weights.tensors.items() if not _is_finite(weight)]
    if not broken:
        return UnsupportedModelError(f"{name} computes numbers that are not finite.")
    more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return ModelLoadError(
        f"{name}: the weight {broken[0]}{more} has values that are not finite numbers. Download it again."
    )


def _is_finite(weight: torch.Tensor | IntegerMatrix) -> bool:
    return weight.is_finite() if isinstance(weight, IntegerMatrix) else bool(torch.isfinite(weight).all())
