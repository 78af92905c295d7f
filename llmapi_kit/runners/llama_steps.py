"""The steps of a GGUF file, computed by llama.cpp: a slot is one of its sequences, and a step one `llama_decode`.

Each slot has a stream of KV memory of its own, so a request never reads past what it holds itself, and never finds the
memory full of others. Knows nothing of files, text or requests. Used on one thread, after it was made. Free of torch,
so that a process of its own is there at once.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.runners import libllama
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_chunk import VectorItem
from llmapi_kit.runners.llama_context import BATCH_TOKENS, MAX_SLOTS, ContextOptions, LlamaContext
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_tokens import Piece, TokenBatch, calls_of, first_rows, is_plain, wanted_rows
from llmapi_kit.runners.llama_vectors import VectorBatch, batches_of
from llmapi_kit.runners.split_choice import MOST_ROWS, SplitChoice
from llmapi_kit.runners.thread_choice import SMALL_MODEL_BYTES, ThreadChoice

# Rows of logits that one call may give. The library reserves memory for them, each as wide as the vocabulary.
MIN_OUTPUTS = 64
MAX_TRIED_TOKENS = 64  # of prompts, in a call whose number of threads may be a try

Floats = npt.NDArray[np.float32]


class LlamaSteps:
    """Slots and tokens in, logits out, as arrays; see `llmapi_kit.runners.base.Runner` for its methods.

    Args:
        model: with its weights; this closes it.
        num_slots: sequences held at once.
        max_length: tokens a slot can hold.
        num_threads: CPU threads of a step, all of which are started by the thread that calls `step`.
        adapts_threads: take fewer where that is sooner, see `ThreadChoice`.
        options: of the computation.

    Attributes:
        can_rewind: whether a slot can go back to a prefix of what it holds. Recurrent models can't, so that only whole
            slots can be reused.

    Raises:
        UnsupportedModelError: the model can't be run this way; the message says why.
        ModelLoadError: its weights are not finite numbers.
        ModelTooLargeError: there is no memory for keys and values.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        num_slots: int,
        max_length: int,
        num_threads: int = 1,
        adapts_threads: bool = False,
        options: ContextOptions | None = None,
    ) -> None:
        if num_slots > MAX_SLOTS:
            raise UnsupportedModelError(
                f"llama.cpp holds {MAX_SLOTS} requests at once, not {num_slots}: set max_slots."
            )
        self.num_slots, self.max_length = num_slots, max_length
        self.vocab_size = model.vocab_size
        self.can_rewind = not model.keeps_one_state
        self._model, self._library = model, model.library
        self._is_asynchronous = bool(self._library.llama_supports_gpu_offload())
        self._max_outputs = max(num_slots, MIN_OUTPUTS)
        self._llama = LlamaContext(
            model,
            num_slots=num_slots,
            max_length=max_length,
            num_outputs=self._max_outputs,
            num_threads=1,
            options=options or ContextOptions(),
        )
        self._context, self._memory = self._llama.handle, self._llama.memory
        self._batch = TokenBatch(BATCH_TOKENS)
        self._held = [0] * num_slots  # positions from here on are free
        self._threads = ThreadChoice.for_model(model.size_bytes, num_threads) if adapts_threads else None
        self._prompt_threads: ThreadChoice | None = None
        self._num_threads = 1
        self._splits = None if self._is_asynchronous else SplitChoice()
        self._rows = np.empty((MOST_ROWS, self.vocab_size), np.float32)
        self._adapters: dict[int, int] = {}  # number to address
        self._current_adapter = 0
        self._view, self._view_of = np.empty((0, self.vocab_size), np.float32), (0, 0)
        self._pooled: dict[int, dict[int, Floats]] = {}  # slot to first position to the sum of its states
        self._state_size = int(self._library.llama_model_n_embd(model.handle))
        try:
            self._self_check()
        except BaseException:
            self.close()
            raise
        # Only now. OpenMP keeps the threads of each thread that had some; where there are more of them than cores, they
        # sleep rather than spin, and a step of a small model takes four times as long on two threads as on one
        self._set_num_threads(self._threads.num_threads if self._threads else num_threads)
        # A row of a large model is limited by memory, where more threads gain little, and its prompts are not. Threads
        # that a small one's prompt wakes spin beside the answer, which then takes longer
        if adapts_threads and model.size_bytes >= SMALL_MODEL_BYTES:
            self._prompt_threads = ThreadChoice(num_threads)

    def step(self, items: Sequence[StepItem], out: Floats | None = None) -> Floats:
        """See `Runner.step`.

        Args:
            items: what to compute.
            out: rows that the answer is written to; without them, it may lie in the library's memory.
        """
        for item in items:
            self._rewind(item.slot, item.start)
        # An adapter holds for a whole call; and neighbouring streams are computed together
        order = sorted(range(len(items)), key=lambda index: (items[index].adapter, items[index].slot))
        rows = first_rows(items)
        if out is not None:
            out = out[: rows[-1]]
        in_order = [items[index] for index in order]
        if in_order and is_plain(in_order):
            return _placed(self._decode_tokens(in_order), order, out)
        parts = list(calls_of(list(zip(order, in_order, strict=True)), self._batch.size, self._max_outputs))
        for part in parts:
            logits = self._decode(part)
            wanted = [(row, source) for source, row in wanted_rows(part, rows)]
            if len(parts) == 1 and [row for row, _ in wanted] == list(range(len(logits))):
                return _placed(logits, range(len(logits)), out)
            if out is None:
                out = np.empty((rows[-1], self.vocab_size), np.float32)
            if wanted:
                targets, sources = zip(*wanted, strict=True)
                out[list(targets)] = logits[list(sources)]
        return np.empty((0, self.vocab_size), np.float32) if out is None else out

    def add_adapter(self, adapter: int, weights: str) -> None:
        """See `AdapterRunner.add_adapter`.

        Args:
            adapter: what items name it by.
            weights: path of a GGUF file.
        """
        self._adapters[adapter] = self._model.load_adapter(Path(weights))

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        if self._current_adapter == adapter:
            self._use_adapter(0)
        self._model.free_adapter(self._adapters.pop(adapter))

    def read_vectors(self, items: Sequence[VectorItem]) -> Floats:
        """See `llmapi_kit.runners.multimodal_steps.VectorSteps.read_vectors`."""
        for item in items:
            self._rewind(item.slot, item.start)
            self._held[item.slot] = item.end
        rows = [np.empty((0, self.vocab_size), np.float32)]
        for part in batches_of(items, BATCH_TOKENS):
            batch = VectorBatch(part)
            self._library.llama_set_embeddings(self._context, False)
            self._library.llama_set_causal_attn(self._context, part[0].is_causal)
            try:
                self._run(batch.batch, part[0].adapter)
            finally:
                self._library.llama_set_causal_attn(self._context, True)
            if batch.num_outputs:
                address = self._library.llama_get_logits(self._context)
                rows.append(_rows_at(address, batch.num_outputs, self.vocab_size).copy())
        return np.concatenate(rows)

    def restart(self) -> bool:
        """See `llama_cpp_runner.Steps.restart`: what a failed step wrote is removed by the next one."""
        return False

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._library.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._library.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._held[target] = self._held[source]
        self._rewind(target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. KV memory is preallocated and stays as it is."""
        self._pooled.pop(slot, None)

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        mean = np.sum(list(self._pooled[slot].values()), axis=0)
        vector: list[float] = (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist()
        return vector

    def close(self) -> None:
        """See `Runner.close`."""
        self._llama.close()
        self._pooled.clear()
        self._model.close()

    def _rewind(self, slot: int, length: int) -> None:
        """Have a slot hold its first `length` positions and no more."""
        if self._held[slot] <= length:
            return
        if not self._library.llama_memory_seq_rm(self._memory, slot, length if length else -1, -1):
            raise RuntimeError(f"{self._model.path.name} can't go back to token {length} of what it has read.")
        self._held[slot] = length

    def _decode(self, part: Sequence[Piece]) -> Floats:
        """Compute tokens; logits (rows of output, vocab), in the order of the pieces, until the next call."""
        has_states = any(piece.item.wants_mean for piece in part)
        batch = self._batch.fill(part)
        items = [piece.item for piece in part]
        self._timed_call(self._prompt_threads, _size_class(batch.n_tokens), items, batch, has_states=has_states)
        num_rows = sum(piece.num_outputs for piece in part)
        if not num_rows:
            return np.empty((0, self.vocab_size), np.float32)
        if has_states:
            self._pool(part, _rows_at(self._library.llama_get_embeddings(self._context), num_rows, self._state_size))
        return self._logits(num_rows)

    def _decode_tokens(self, items: Sequence[StepItem]) -> Floats:
        """The same for a token of each item, with a row for each: nearly every step, and in small models it counts."""
        if self._splits is None:
            return self._decode_together(items)
        is_split, started = self._splits.next(len(items)), time.perf_counter()
        logits = self._decode_one_by_one(items) if is_split else self._decode_together(items)
        self._splits.record(len(items), time.perf_counter() - started)
        return logits

    def _decode_one_by_one(self, items: Sequence[StepItem]) -> Floats:
        """The same in a call for each, of a few."""
        logits = self._rows[: len(items)]
        for row, item in zip(logits, items, strict=True):
            row[:] = self._decode_together([item])[0]
        return logits

    def _decode_together(self, items: Sequence[StepItem]) -> Floats:
        """The same in one call."""
        batch = self._batch.fill_tokens(items)
        self._timed_call(self._threads, len(items), items, batch, has_states=False)
        return self._logits(len(items))

    def _timed_call(
        self,
        threads: ThreadChoice | None,
        size: int,
        items: Sequence[StepItem],
        batch: libllama.Batch,
        *,
        has_states: bool,
    ) -> None:
        """A call on as many threads as were chosen for others of its size, if they are to be chosen."""
        if threads is None:
            self._call(items, batch, has_states=has_states)
            return
        self._set_num_threads(threads.next(size))
        started = time.perf_counter()
        self._call(items, batch, has_states=has_states)
        threads.record(size, (time.perf_counter() - started) / batch.n_tokens)
        self._set_num_threads(threads.num_threads)

    def _set_num_threads(self, num_threads: int) -> None:
        if num_threads != self._num_threads:
            self._library.llama_set_n_threads(self._context, num_threads, num_threads)
            self._num_threads = num_threads

    def _call(self, items: Sequence[StepItem], batch: libllama.Batch, *, has_states: bool) -> None:
        for item in items:
            self._held[item.slot] = max(self._held[item.slot], item.start + len(item.tokens))
        self._library.llama_set_embeddings(self._context, has_states)
        self._run(batch, items[0].adapter)

    def _logits(self, num_rows: int) -> Floats:
        """What the last call computed, not copied."""
        place = (int(self._library.llama_get_logits(self._context)), num_rows)
        if place != self._view_of:
            self._view, self._view_of = _rows_at(*place, self.vocab_size), place
        return self._view

    def _use_adapter(self, adapter: int) -> None:
        self._llama.apply([self._adapters[adapter]] if adapter else [])
        self._current_adapter = adapter

    def _run(self, batch: libllama.Batch, adapter: int) -> None:
        if adapter != self._current_adapter:
            self._use_adapter(adapter)
        libllama.take_errors()
        code = self._library.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama.cpp could not compute the step (code {code}): {libllama.take_errors()}")
        if self._is_asynchronous:  # who asks for the logits keeps the GIL, and must not wait with it
            self._library.llama_synchronize(self._context)

    def _pool(self, part: Sequence[Piece], states: Floats) -> None:
        """Sum up hidden states for the means, one sum a piece, so that a repeated one replaces itself."""
        row = 0
        for piece in part:
            if piece.item.wants_mean:
                sums = self._pooled.setdefault(piece.item.slot, {})
                first = piece.item.start + piece.begin
                if first == 0:
                    sums.clear()
                sums[first] = states[row : row + piece.num_outputs].sum(0)
            row += piece.num_outputs

    def _self_check(self) -> None:
        """Compute a prompt, and look whether numbers come of it."""
        ids = [(97 * i + 11) % self.vocab_size for i in range(min(12, self.max_length))]
        try:
            logits = self.step([StepItem(0, 0, ids, True)])
        except RuntimeError as exc:
            raise UnsupportedModelError(f"{self._model.path.name} failed on a first step: {exc}") from exc
        if not bool(np.isfinite(logits).all()):
            raise ModelLoadError(
                f"{self._model.path.name} computes numbers that are not finite; its weights are damaged. "
                "Download it again."
            )
        self._library.llama_memory_clear(self._memory, True)
        self._held[0] = 0


def _size_class(num_tokens: int) -> int:
    """Calls with the same one take as long for a token, about; 0 for long ones, too dear for a try of fewer threads."""
    return num_tokens.bit_length() if num_tokens <= MAX_TRIED_TOKENS else 0


def _placed(logits: Floats, order: Sequence[int], out: Floats | None) -> Floats:
    """Rows in the order of the items: each goes to the place that `order` has for it."""
    is_in_order = all(index == place for place, index in enumerate(order))
    if is_in_order and out is None:
        return logits
    if out is None:
        out = np.empty_like(logits)
    out[slice(None) if is_in_order else list(order)] = logits
    return out


def _rows_at(address: int, num_rows: int, width: int) -> Floats:
    """Numbers (num_rows, width) in the library's memory, not copied."""
    return np.ctypeslib.as_array((ctypes.c_float * (num_rows * width)).from_address(address)).reshape(num_rows, width)
