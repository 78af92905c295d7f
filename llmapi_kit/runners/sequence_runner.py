"""Runs any causal language model of transformers one sequence after the other, each with a cache of its own.

For models that can't share a step over slots: recurrent ones, those with positions or attention of their own making,
and those whose computation depends on how long a sequence is. What is computed is what the model's `generate` computes:
the inputs are made by `prepare_inputs_for_generation`, and the cache is the model's own. Weights are read once a
sequence and not once a step, so many streams are no faster than one. Knows nothing of requests. Engine thread only.

Every slot knows its tokens. Where a cache can't go on as asked, because it can't be cut or a step failed in its
middle, it is computed anew from them.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmapi_kit.checkpoints.heap import trim_heap
from llmapi_kit.errors import LlmApiKitError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.mean_states import MeanStates
from llmapi_kit.runners.model_check import check_finite
from llmapi_kit.runners.module_state import ModuleState, State
from llmapi_kit.runners.self_check import are_close, check_ids
from llmapi_kit.runners.short_spans import short_spans
from llmapi_kit.runners.thread_count import best_num_threads
from llmapi_kit.runners.widening import widen

logger = logging.getLogger(__name__)

# Tokens of a prompt from which it pays: a state-space model's intermediate values are large, and glibc keeps them
TRIMMED_FROM = 128

# What models call what they keep of a sequence: in their output, and as an argument where that is another name
CACHE_NAMES = {
    "past_key_values": "past_key_values",
    "cache_params": "cache_params",
    "state": "state",
    "mems": "past_key_values",
    "past_buckets_states": "past_key_values",
}


@dataclass(slots=True)
class _Sequence:
    """What a slot holds.

    Attributes:
        tokens: all of the sequence.
        num_cached: how many of them `cache` has seen.
        cache: arguments of a forward pass that goes on; empty where there is none.
        state: what the model keeps of it in its modules.
    """

    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    cache: dict[str, Any] = field(default_factory=dict)
    state: State | None = None

    def forget(self) -> None:
        """Keep the tokens only."""
        self.num_cached, self.cache, self.state = 0, {}, None


class SequenceRunner:
    """See `llmapi_kit.runners.base.Runner`.

    Args:
        model: a transformers causal language model in evaluation mode, on its device.
        num_slots: sequences held at once.
        max_length: tokens a sequence can have.
        is_length_dependent: whether what a token means to the model depends on how long the sequence is. Prompts are
            computed whole then, and caches are not shared.
        dtype: of arithmetic; the weights' own by default.
        num_threads: CPU threads of a step; 0 chooses by the model's size.

    Attributes:
        can_chunk: whether a prompt is computed in parts, as it comes. Else it is computed at its end, whole.
        can_rewind: whether a cache can go back to a prefix of what it has seen.

    Raises:
        UnsupportedModelError: the model can't be run this way either; the message says why.
        ModelLoadError: its weights are not finite numbers.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_slots: int,
        max_length: int,
        is_length_dependent: bool = False,
        dtype: torch.dtype | None = None,
        num_threads: int = 0,
    ) -> None:
        if dtype is not None:
            widen(model, dtype)
        self.num_slots = num_slots
        self.max_length = max_length
        self._num_threads = num_threads or best_num_threads(sum(p.nbytes for p in model.parameters()))
        self._model = model
        self._device = model.device
        self._arguments = _arguments_of(model)
        self._sequences = [_Sequence() for _ in range(num_slots)]
        self._state = ModuleState(model)
        self._means = MeanStates()
        self._pooled: dict[int, list[StepItem]] = {}  # slot to what its mean still lacks
        self.can_chunk = self.can_rewind = not is_length_dependent
        self.vocab_size = self._try_out()

    @property
    def kv_bytes(self) -> int:
        """Bytes that the caches of all slots take now."""
        return sum(_num_bytes(sequence.cache) for sequence in self._sequences)

    @property
    def kind(self) -> Literal["sequences"]:
        """See `TorchRunner.kind`."""
        return "sequences"

    def start(self) -> None:
        """See `Runner.start`."""
        torch.set_num_threads(self._num_threads)

    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """See `Runner.step`."""
        answers = [self._compute(item) for item in items]
        if self._device.type == "cpu" and any(len(item.tokens) >= TRIMMED_FROM for item in items):
            trim_heap()
        rows = [answer for item, answer in zip(items, answers, strict=True) if item.wants_logits]
        return torch.cat(rows) if rows else torch.empty(0, self.vocab_size)

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`. The sequence whose step failed has been forgotten already."""
        if isinstance(error, torch.OutOfMemoryError) and self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        held = self._sequences[source]
        copied = self._sequences[target] = _Sequence(held.tokens[:length])
        is_whole = held.num_cached == length
        if held.cache and (is_whole or (self.can_rewind and held.num_cached > length)):
            copied.cache, copied.num_cached = copy.deepcopy(held.cache), held.num_cached
            copied.state = held.state
            self._rewind(copied, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. A cache that can be cut stays, for a prompt that begins alike."""
        self._means.free(slot)
        self._pooled.pop(slot, None)
        if not self.can_rewind:
            self._sequences[slot].forget()

    @torch.inference_mode()
    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        self._pool(slot)
        return self._means.mean(slot)

    def close(self) -> None:
        """See `Runner.close`."""
        self._sequences.clear()
        self._means.clear()
        self._model = None

    def _compute(self, item: StepItem) -> torch.Tensor:
        """The logits that an item wants, (num_wanted, vocab)."""
        sequence = self._sequences[item.slot]
        end = item.start + len(item.tokens)
        sequence.tokens[item.start :] = item.tokens
        self._rewind(sequence, item.start)
        if item.wants_mean:
            self._remember(item)
        if not item.wants_logits and (item.wants_mean or not self.can_chunk):
            return torch.empty(0, self.vocab_size)
        num_wanted = len(item.tokens) if item.wants_every else int(item.wants_logits)
        if item.wants_every and not self.can_chunk:
            sequence.forget()
        return self._advance(sequence, end, num_wanted)

    def _rewind(self, sequence: _Sequence, length: int) -> None:
        """Have a sequence's cache hold no more than `length` tokens."""
        if sequence.num_cached <= length:
            return
        if not self.can_rewind or not _cut(sequence.cache, length):
            sequence.forget()
        sequence.num_cached = min(sequence.num_cached, length)

    def _advance(self, sequence: _Sequence, end: int, num_wanted: int) -> torch.Tensor:
        """Compute the tokens of a sequence that its cache has not seen; the last logits (num_wanted, vocab)."""
        if end - sequence.num_cached > 1 and not self.can_chunk:
            sequence.forget()
        try:
            output = self._forward(sequence, end, num_wanted)
        except BaseException:
            sequence.forget()  # some of its layers have seen the tokens, and some have not
            raise
        logits: torch.Tensor = output.logits[0]
        return logits[len(logits) - num_wanted :] if num_wanted else logits[:0]

    def _forward(self, sequence: _Sequence, end: int, num_wanted: int = 1, **options: Any) -> Any:
        """The model's output for the tokens up to `end` that the cache lacks; the cache has seen them afterwards."""
        ids = torch.tensor([sequence.tokens[:end]], device=self._device)
        known = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(end, device=self._device)[None]}
        if "logits_to_keep" in self._arguments and num_wanted:
            options["logits_to_keep"] = num_wanted
        cache = sequence.cache or self._new_cache()
        inputs = self._model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=end - sequence.num_cached if sequence.num_cached else None,
            is_first_iteration=not sequence.num_cached,
            use_cache=True,
            **{name: value for name, value in known.items() if name in self._arguments},
            **cache,
            **options,
        )
        with self._state.swapped_in(sequence.state) as state:
            output = self._model(**inputs, return_dict=True)
        sequence.state = state or None
        made = {argument: output.get(name) for name, argument in CACHE_NAMES.items() if output.get(name) is not None}
        sequence.cache = made or cache
        sequence.num_cached = end if sequence.cache else 0
        return output

    def _new_cache(self) -> dict[str, Any]:
        """An empty cache as an argument, for a model that takes one; others make their own."""
        takes = getattr(self._model, "_supports_default_dynamic_cache", None)  # what `generate` asks
        name = next((name for name in ("cache_params", "past_key_values") if name in self._arguments), None)
        if name is None or takes is None or not takes():
            return {}
        return {name: DynamicCache(config=self._model.config.get_text_config(decoder=True))}

    def _remember(self, item: StepItem) -> None:
        """Have a mean count these tokens, once the last of them is known."""
        items = self._pooled.setdefault(item.slot, [])
        items[:] = [each for each in items if each.start < item.start]
        items.append(item)

    def _pool(self, slot: int) -> None:
        """Compute the states that a slot's mean lacks, in one pass over the whole sequence."""
        items = self._pooled.pop(slot, [])
        if not items:
            return
        sequence = _Sequence(self._sequences[slot].tokens)
        output = self._forward(sequence, len(sequence.tokens), output_hidden_states=True)
        if not output.get("hidden_states"):
            raise UnsupportedModelError(f"{type(self._model).__name__} gives no hidden states, so it can't embed.")
        self._means.add([(item, item.start) for item in items], output.hidden_states[-1][0])

    # At load

    @torch.inference_mode()
    def _try_out(self) -> int:
        """Find out what the model's cache can do; returns the width of the logits.

        Every length at which the model begins to compute otherwise is made short for it, see `short_spans`.
        """
        name = type(self._model).__name__
        try:
            ids = check_ids(int(self._model.get_input_embeddings().num_embeddings), self.max_length)
            with short_spans(self._model, self.max_length):
                expected = self._whole(ids)
                self._state.find()
                check_finite(self._model, expected)
                # What is asked for later has been tried: a model fails here, and not in the middle of an answer
                decoded = self._in_parts(ids, [len(ids) // 2, *[1] * (len(ids) - len(ids) // 2)], beside=ids[::-1])
                if not are_close(decoded, expected):
                    logger.info("%s computes with its cache other logits than without it, as in generate().", name)
                self.can_chunk = self.can_chunk and self._works(self._in_chunks, ids, decoded)
                self.can_rewind = self.can_rewind and self._works(self._rewound, ids, decoded)
        except LlmApiKitError:
            raise
        except Exception as exc:
            raise UnsupportedModelError(
                f"{name} failed on a first forward pass: {type(exc).__name__}: {exc}. "
                "Served are models that write on from text alone."
            ) from exc
        finally:
            self._sequences = [_Sequence() for _ in range(self.num_slots)]
        return int(expected.shape[-1])

    def _whole(self, ids: Sequence[int]) -> torch.Tensor:
        return self._advance(_Sequence(list(ids)), len(ids), 1)

    def _in_parts(self, ids: Sequence[int], sizes: Sequence[int], beside: Sequence[int] = ()) -> torch.Tensor:
        """The last logits, computed in so many tokens at a time; another sequence takes its turns in between."""
        sequence, other = _Sequence(list(ids)), _Sequence(list(beside))
        end = 0
        logits = torch.empty(0)
        for size in sizes:
            end += size
            logits = self._advance(sequence, end, 1)
            if beside:
                self._advance(other, min(end, len(beside)), 1)
        return logits

    def _in_chunks(self, ids: Sequence[int]) -> torch.Tensor:
        first = len(ids) // 3
        return self._in_parts(ids, [first, len(ids) - 2 * first, first - 1, 1] if first > 1 else [len(ids)])

    def _rewound(self, ids: Sequence[int]) -> torch.Tensor:
        sequence = _Sequence([*ids[:-3], *ids])
        self._advance(sequence, len(sequence.tokens), 1)
        half = len(ids) // 2
        if not _cut(sequence.cache, half):
            return torch.full((1, 1), torch.nan)
        sequence.tokens, sequence.num_cached = list(ids), half
        for end in range(half + 1, len(ids) + 1):
            logits = self._advance(sequence, end, 1)
        return logits

    def _works(self, attempt: Any, ids: Sequence[int], expected: torch.Tensor) -> bool:
        """Whether a way of computing gives the same; what it raises is an answer, too."""
        try:
            return are_close(attempt(ids), expected)
        except Exception as exc:
            logger.debug("%s: %s", type(self._model).__name__, exc)
            return False


def _arguments_of(model: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def _cut(cache: dict[str, Any], length: int) -> bool:
    """Shorten a cache to its first tokens; False where that can't be done, and the cache is as it was."""
    for kept in cache.values():
        layers = getattr(kept, "layers", None)
        if not layers or not all(type(layer) is DynamicLayer for layer in layers):
            return False
    for kept in cache.values():
        for layer in kept.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    return True


def _num_bytes(value: Any) -> int:
    """Bytes of all tensors in a cache, whatever it is made of."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_num_bytes, value))
    return _num_bytes(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, type) else 0
