"""Runs a Hugging Face decoder over slots: one packed forward pass a step, keys and values kept here.

Knows nothing of requests, sampling or text. Used on the engine thread only.

All tokens of a step, of all slots, form one row (1, T); only attention tells them apart. The model's attention is
replaced through transformers' `AttentionInterface` by `slot_attention`, which writes the new keys and values into
preallocated memory and attends each slot to its own past, so nothing is padded and nothing is copied per step.
Models whose attention does not go through that interface, or does something it can't honour, are refused when
they are loaded, with the reason; a self-check compares the logits with the model's own forward pass.

Source: packing many sequences into a row is how vLLM and transformers' continuous batching do it;
https://huggingface.co/docs/transformers/attention_interface describes the hook.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import AttentionInterface

from llmapi_kit.checkpoints.decoder_weights import weights_of_model
from llmapi_kit.checkpoints.fit import free_memory
from llmapi_kit.checkpoints.mapped_files import dropping_pages
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, ModelTooLargeError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.bucketed_decoder import PAGE, BucketedDecoder
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory
from llmapi_kit.runners.lean_decoder import LeanDecoder
from llmapi_kit.runners.mean_states import MeanStates
from llmapi_kit.runners.native.compiler import NativeUnavailableError
from llmapi_kit.runners.native.decoder import Formats, NativeDecoder
from llmapi_kit.runners.self_check import check_ids, check_steps
from llmapi_kit.runners.slot_attention import KVMemory, attend, slot_attention
from llmapi_kit.runners.step_layout import StepLayout
from llmapi_kit.runners.thread_count import best_num_threads, num_threads_set

logger = logging.getLogger(__name__)

ATTENTION_NAME = "llmapi_kit_slots"
AttentionInterface.register(ATTENTION_NAME, slot_attention)


class TorchRunner:
    """See `llmapi_kit.runners.base.Runner`.

    Args:
        model: a transformers causal language model in evaluation mode, on its device. The runner changes its
            attention implementation; the model stays usable, but not by its own `generate`.
        num_slots: sequences held at once.
        max_length: tokens a slot can hold.
        dtype: of arithmetic, keys and values; the weights' own by default. Weights in bfloat16 stay so where
            `NativeDecoder` computes in float32 with them; torch needs them widened.
        num_threads: CPU threads of a step; 0 chooses by the model's size.
        lean: use `LeanDecoder` where it knows the model's family; False always goes through the model's modules.
        native: with `lean`: use `NativeDecoder`, compiled C, where it knows the family and there is a compiler.
        is_compiled: with `lean`: decode through `torch.compile`, not `native`; on a CPU it needs a C++ compiler.
        images: vectors of pictures, whose ids may stand among the tokens; steps run in torch then, not `native`.

    Raises:
        UnsupportedModelError: the model can't be run this way; the message says why.
        ModelLoadError: its weights are no finite numbers.
        ModelTooLargeError: its weights would have to be widened to `dtype`, and there is no memory for it.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_slots: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        num_threads: int = 0,
        lean: bool = True,
        native: bool = True,
        is_compiled: bool = False,
        images: ImageMemory | None = None,
    ) -> None:
        self._num_threads = num_threads or best_num_threads(sum(p.nbytes for p in model.parameters()))
        self.num_slots = num_slots
        self.max_length = max_length
        self._model = model
        self._device = model.device
        can_be_lean = lean and LeanDecoder.can_run(model)
        self._images = images
        is_native = native and can_be_lean and not is_compiled and images is None and _can_be_native(model, dtype)
        if dtype is not None and not is_native:
            _widen(model, dtype)
        expected = self._reference_logits()
        self.vocab_size = int(expected.shape[-1])
        model.set_attn_implementation(ATTENTION_NAME)
        # A slot to spare, and whole pages: see `BucketedDecoder`
        is_bucketed = can_be_lean and (is_compiled or model.device.type == "cuda")
        shape = (num_slots + 1, -(-max_length // PAGE) * PAGE) if is_bucketed else (num_slots, max_length)
        self._memory = KVMemory(*shape, model.device, model.dtype)
        self._means = MeanStates()
        self._native = (
            NativeDecoder(
                weights_of_model(model),
                num_slots=num_slots,
                max_length=max_length,
                num_threads=num_threads or torch.get_num_threads(),
                dtype=dtype,
            )
            if is_native
            else None
        )
        self._lean = LeanDecoder(model, max_length) if can_be_lean and self._native is None else None
        self._bucketed: BucketedDecoder | None = None
        self._self_check(expected)
        if is_bucketed and self._lean is not None:
            self._choose_bucketed(self._lean, is_compiled, expected)

    @property
    def kv_bytes(self) -> int:
        """Size of the KV memory in bytes."""
        return self._memory.num_bytes if self._native is None else self._native.num_bytes

    @property
    def kind(self) -> Literal["native", "lean", "modules"]:
        """How the forward pass runs: in compiled C, written out in torch, or through the model's modules."""
        return "native" if self._native is not None else "lean" if self._lean is not None else "modules"

    def start(self) -> None:
        """See `Runner.start`. OpenMP's thread count belongs to the calling thread, so cells keep theirs."""
        torch.set_num_threads(self._num_threads)

    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """See `Runner.step`."""
        if self._native is not None:
            answer, states, pooled = self._native.step(items)
            self._means.add(pooled, states)
            return answer
        if self._bucketed is not None and BucketedDecoder.can_run(items):
            return self._bucketed.step(items)
        layout = StepLayout(items, self._device)
        if self._lean is not None:
            over_slots = functools.partial(attend, layout, self._memory)
            embedded = self._embedded(layout.input_ids[0], self._lean.embed)
            states = self._lean.hidden_states(embedded, layout.positions, over_slots)
            self._means.add(layout.pooled, states)
            # All decodes is the common case, and then the row is the answer already
            return self._lean.logits(states if layout.wants_all else states[layout.wanted])
        tokens: dict[str, torch.Tensor] = {"input_ids": layout.input_ids}
        if self._images is not None:
            tokens = {"inputs_embeds": self._embedded(layout.input_ids, self._model.get_input_embeddings())}
        output = self._model(
            **tokens,
            position_ids=layout.position_ids,
            use_cache=False,
            logits_to_keep=layout.wanted,
            slot_layout=layout,
            slot_memory=self._memory,
            output_hidden_states=bool(layout.pooled),
        )
        if layout.pooled:
            self._means.add(layout.pooled, output.hidden_states[-1][0])
        logits: torch.Tensor = output.logits[0]
        return logits

    def _embedded(self, ids: torch.Tensor, embed: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Tokens embedded, and vectors of pictures where their ids stand."""
        if self._images is None or not bool((is_image := ids >= FIRST_IMAGE_ID).any()):
            return embed(ids)
        embedded = embed(ids.masked_fill(is_image, 0))
        embedded[is_image] = self._images.rows(ids[is_image]).to(embedded)
        return embedded

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`: after running out of GPU memory, give what is cached back to the device."""
        if isinstance(error, torch.OutOfMemoryError) and self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        (self._native or self._memory).copy_prefix(source, target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. KV memory is preallocated and stays as it is."""
        self._means.free(slot)

    @torch.inference_mode()
    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        return self._means.mean(slot)

    def close(self) -> None:
        """See `Runner.close`."""
        if self._native is not None:
            self._native.close()
        self._memory.clear()
        self._means.clear()
        self._model = self._lean = self._native = self._bucketed = None

    def _choose_bucketed(self, lean: LeanDecoder, is_compiled: bool, expected: torch.Tensor) -> None:
        """Decode through fixed shapes with the first attention that passes the self-check, or not at all."""
        for has_varlen in (True, False):
            self._bucketed = self._make_bucketed(lean, is_compiled, has_varlen)
            try:
                self._self_check(expected)
            except UnsupportedModelError as exc:  # it passed without fixed shapes, so it can be served without
                problem = exc
            else:
                return
            if self._bucketed.attention == "sdpa":
                break
            logger.warning("Decoding goes through SDPA, not through variable-length attention: %s", problem)
        logger.warning("Decoding steps run neither compiled nor recorded: %s", problem)
        self._bucketed = None

    def _make_bucketed(self, lean: LeanDecoder, is_compiled: bool, has_varlen: bool) -> BucketedDecoder:
        with num_threads_set(self._num_threads):  # another number would compile anew, on the first request
            return BucketedDecoder(
                lean,
                self._memory,
                num_slots=self.num_slots,
                compiler=functools.partial(torch.compile, dynamic=True) if is_compiled else None,
                is_recorded=self._device.type == "cuda",
                has_varlen=has_varlen,
            )

    @torch.inference_mode()
    def _reference_logits(self) -> torch.Tensor:
        """Logits (1, vocab) of the model's own forward pass after the self-check's prompt."""
        try:
            self._ids = check_ids(int(self._model.get_input_embeddings().num_embeddings), self.max_length)
            ids = torch.tensor([self._ids], device=self._device)
            with dropping_pages(self._model):
                logits: torch.Tensor = self._model(input_ids=ids, use_cache=False).logits[:, -1]
        except Exception as exc:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} failed on a first forward pass: {exc}. "
                "Only decoder-only text models can be served."
            ) from exc
        if not bool(torch.isfinite(logits).all()):
            raise self._not_finite()
        return logits.clone()

    def _not_finite(self) -> LlmApiKitError:
        """Why the logits are no numbers: the weights, or a number format that is too narrow for the model."""
        name = type(self._model).__name__
        broken = [key for key, weight in self._model.named_parameters() if not bool(torch.isfinite(weight).all())]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            return ModelLoadError(
                f"{name}: the weight {broken[0]}{more} has values that are no finite numbers. Download it again."
            )
        dtype = str(self._model.dtype).removeprefix("torch.")
        return UnsupportedModelError(
            f"{name} computes numbers that are not finite in {dtype}. Load it with dtype='float32' or 'bfloat16'."
        )

    def _self_check(self, expected: torch.Tensor) -> None:
        name = type(self._model).__name__
        advice = " It may be with native=False." if self._native is not None else ""
        check_steps(self._checked_step, self._ids, self.num_slots, expected, name, advice)

    def _checked_step(self, items: Sequence[StepItem]) -> torch.Tensor:
        logits = self.step(items)
        if self._native is None and not self._memory.layers:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} does not route its attention through transformers' AttentionInterface, "
                "so its KV cache can't be shared between requests."
            )
        return logits


def _can_be_native(model: Any, dtype: torch.dtype | None) -> bool:
    """Whether the decoder in C can be had; where only a compiler is missing for it, that is logged."""
    if not NativeDecoder.can_run(model, dtype):
        return False
    try:
        NativeDecoder.compile(Formats(model.dtype, dtype or model.dtype))
    except NativeUnavailableError as exc:
        logger.warning("Steps run in torch, several times slower than in C: %s", exc)
        return False
    return True


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Give a model's weights another type.

    Raises:
        ModelTooLargeError: there is no memory for it.
    """
    more = sum(p.numel() * (dtype.itemsize - p.itemsize) for p in model.parameters())
    if more > (free := free_memory(str(model.device))):
        raise ModelTooLargeError(
            f"Computing in {str(dtype).removeprefix('torch.')} takes {more / 2**30:.1f} GiB more for the weights here, "
            f"and {free / 2**30:.1f} GiB are free. Pass dtype='bfloat16'; or, with a C compiler, Llama-like models "
            "compute in float32 without it."
        )
    model.to(dtype)
