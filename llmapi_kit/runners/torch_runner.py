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

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import AttentionInterface

from llmapi_kit.checkpoints.architecture import constant_length
from llmapi_kit.checkpoints.cache_size import PAGE_SIZE, pages_of
from llmapi_kit.checkpoints.low_rank import Changes
from llmapi_kit.checkpoints.mapped_files import dropping_pages
from llmapi_kit.checkpoints.model_decoder import config_of, weights_of_model
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.bucketed_decoder import PAGE, BucketedDecoder
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory
from llmapi_kit.runners.lean_decoder import LeanDecoder, unchanged
from llmapi_kit.runners.mean_states import MeanStates
from llmapi_kit.runners.model_check import check_finite
from llmapi_kit.runners.native.compiler import NativeUnavailableError
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.formats import Formats
from llmapi_kit.runners.picture_runs import same_picture_mask
from llmapi_kit.runners.self_check import check_prompts, check_steps
from llmapi_kit.runners.short_spans import short_spans, short_windows
from llmapi_kit.runners.slot_attention import KVMemory, attend, slot_attention
from llmapi_kit.runners.spatial_positions import SpatialPositions
from llmapi_kit.runners.step_layout import StepLayout
from llmapi_kit.runners.thread_count import best_num_threads, num_threads_set
from llmapi_kit.runners.torch_adapters import TorchAdapters
from llmapi_kit.runners.widening import widen, widened

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
        native: with `lean`: use `NativeDecoder`, compiled C, where it knows the family and there is a compiler. It
            knows more families, but pictures only of those that `LeanDecoder` knows.
        is_compiled: with `lean`: decode through `torch.compile`, not `native`; on a CPU it needs a C++ compiler.
        images: vectors of pictures, whose ids may stand among the tokens.
        num_pages: see `PagedRunner`; None for what all slots can fill. A GPU has that allocated anyway.

    Attributes:
        page_size: see `PagedRunner`.

    Raises:
        UnsupportedModelError: the model can't be run this way; the message says why.
        ModelLoadError: its weights are not finite numbers.
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
        num_pages: int | None = None,
    ) -> None:
        self._num_threads = num_threads or best_num_threads(sum(p.nbytes for p in model.parameters()))
        self.num_slots = num_slots
        self.max_length = max_length
        self.page_size = PAGE_SIZE
        self.num_pages = num_pages or pages_of(num_slots, max_length)
        self._model = model
        self._device = model.device
        is_special = images is not None and (images.is_spatial or images.is_bidirectional)
        can_be_lean = lean and not is_special and LeanDecoder.can_run(model)
        self._keeps_wanted = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._images = images
        self._rows = (lambda ids: images.rows(ids)[0]) if images is not None else None
        self._spatial: SpatialPositions | None = None
        if images is not None and images.is_spatial:
            self._spatial = SpatialPositions(images, num_slots, max_length)
        constant = constant_length(model.config.get_text_config())
        may_be_native = native and lean and not is_compiled and (images is None or can_be_lean)
        may_be_native = may_be_native and max_length <= (constant or max_length)
        is_native = may_be_native and _can_be_native(model, dtype)
        if dtype is not None and not is_native:
            widen(model, dtype)
        is_bucketed = can_be_lean and (is_compiled or model.device.type == "cuda")
        has_experts = is_native and config_of(model).variant.experts is not None
        with short_spans(model, max_length), widened(model) if has_experts else contextlib.nullcontext():
            expected = self._reference_logits()
        # Recorded steps keep their windows
        expected_bucketed = self._reference_logits() if is_bucketed else None
        self.vocab_size = int(expected.shape[-1])
        own_attention = model.config._attn_implementation
        model.set_attn_implementation(ATTENTION_NAME)
        # A slot to spare, and whole pages: see `BucketedDecoder`
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
        self._lean = LeanDecoder(model, max_length) if can_be_lean and not is_native else None
        self._adapters = TorchAdapters(model, self._lean) if self._native is None else self._native.adapters
        self._bucketed: BucketedDecoder | None = None
        try:
            with self._short_spans():
                self._self_check(expected)
        except UnsupportedModelError:
            model.set_attn_implementation(own_attention)  # so that the model can be run in another way
            raise
        if expected_bucketed is not None and self._lean is not None:
            self._choose_bucketed(self._lean, is_compiled, expected_bucketed)

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
            answer, states, pooled = self._native.step(items, self._rows)
            self._means.add(pooled, states)
            return answer
        has_adapters = any(item.adapter for item in items)
        if self._bucketed is not None and not has_adapters and BucketedDecoder.can_run(items):
            return self._bucketed.step(items)
        layout = StepLayout(items, self._device)
        if self._images is not None and self._images.is_bidirectional:
            found = {at: same_picture_mask(item.tokens, self._device) for item, at in layout.chunks}
            layout.blocks = {at: each for at, each in found.items() if each is not None}
        if not has_adapters or not isinstance(self._adapters, TorchAdapters):
            return self._compute(layout)
        with self._adapters.step(items, layout.slots, layout.wanted):
            return self._compute(layout, self._adapters)

    def _compute(self, layout: StepLayout, adapters: TorchAdapters | None = None) -> torch.Tensor:
        if self._lean is not None:
            over_slots = functools.partial(attend, layout, self._memory)
            embedded, _ = self._embedded(layout, self._lean.embed)
            if adapters is not None:
                embedded = adapters.embed(layout.input_ids[0], embedded)
            change = unchanged if adapters is None else adapters.change
            states = self._lean.hidden_states(embedded, layout.positions, over_slots, change)
            self._means.add(layout.pooled, states)
            # All decodes is the common case, and then the row is the answer already
            last = states if layout.wants_all else states[layout.wanted]
            logits = self._lean.logits(last)
            return logits if adapters is None else adapters.output(last, logits)
        output = self._model(
            **self._model_inputs(layout),
            use_cache=False,
            logits_to_keep=layout.wanted,
            slot_layout=layout,
            slot_memory=self._memory,
            output_hidden_states=bool(layout.pooled),
        )
        if layout.pooled:
            self._means.add(layout.pooled, output.hidden_states[-1][0])
        found: torch.Tensor = output.logits[0]
        return found if self._keeps_wanted else found[layout.wanted]

    def _model_inputs(self, layout: StepLayout) -> dict[str, Any]:
        """Tokens and positions, as the model's modules take them."""
        if self._images is None:
            return {"input_ids": layout.input_ids, "position_ids": layout.position_ids}
        embedded, deeper = self._embedded(layout, self._model.get_input_embeddings())
        positions = layout.position_ids if self._spatial is None else self._spatial.of(layout).to(self._device)
        inputs: dict[str, Any] = {"inputs_embeds": embedded[None], "position_ids": positions}
        if deeper is not None:
            # Source: "DeepStack", https://arxiv.org/abs/2406.04334; the names are Qwen3-VL's
            inputs["visual_pos_masks"] = layout.input_ids >= FIRST_IMAGE_ID
            inputs["deepstack_visual_embeds"] = list(deeper)
        return inputs

    def _embedded(
        self, layout: StepLayout, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens embedded, with vectors of pictures where their ids stand; and what of these is added deeper in."""
        ids = layout.input_ids[0]
        if self._images is None or not bool((is_image := ids >= FIRST_IMAGE_ID).any()):
            return embed(ids), None
        embedded = embed(ids.masked_fill(is_image, 0))
        features, deeper = self._images.rows(ids[is_image].tolist())
        embedded[is_image] = features.to(embedded)
        return embedded, deeper

    def add_adapter(self, adapter: int, weights: Changes) -> None:
        """See `AdapterRunner.add_adapter`."""
        self._adapters.add(adapter, weights)

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        self._adapters.remove(adapter)

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`: after running out of GPU memory, give what is cached back to the device."""
        if isinstance(error, torch.OutOfMemoryError) and self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        (self._native or self._memory).copy_prefix(source, target, length)
        if self._spatial is not None:
            self._spatial.copy_prefix(source, target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. KV memory stays as it is, for prompts that begin alike."""
        self._means.free(slot)

    def trim(self, slot: int, length: int) -> None:
        """See `PagedRunner.trim`."""
        (self._native or self._memory).trim(slot, length)

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
        del self._adapters
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

    def _short_spans(self) -> contextlib.AbstractContextManager[None]:
        """Let windows be such that a short prompt reaches past them, in whatever computes the layers."""
        decoder = self._native or self._lean
        return short_windows(decoder, self.max_length) if decoder else short_spans(self._model, self.max_length)

    @torch.inference_mode()
    def _reference_logits(self) -> torch.Tensor:
        """Logits (prompts, vocab) of the model's own forward pass after the self-check's prompts."""
        try:
            width = int(self._model.get_input_embeddings().num_embeddings)
            self._prompts = check_prompts(width, self.max_length, self.num_slots)
            with dropping_pages(self._model):
                rows = [
                    self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False).logits[:, -1]
                    for ids in self._prompts
                ]
        except Exception as exc:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} failed on a first forward pass: {exc}. "
                "Only decoder-only text models can be served."
            ) from exc
        logits = torch.cat(rows)
        check_finite(self._model, logits)
        return logits

    def _self_check(self, expected: torch.Tensor) -> None:
        name = type(self._model).__name__
        advice = " It may be with native=False." if self._native is not None else ""
        check_steps(self._checked_step, self._prompts, expected, name, advice)

    def _checked_step(self, items: Sequence[StepItem]) -> torch.Tensor:
        logits = self.step(items)
        if self._native is None and not self._memory.layers:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} does not route its attention through transformers' AttentionInterface, "
                "so its KV cache can't be shared between requests."
            )
        return logits


def _can_be_native(model: Any, dtype: torch.dtype | None) -> bool:
    """Whether the decoder in C can be had; where only a compiler is missing for it, that is logged.

    Not for experts in 16 bits: they are chosen by scores, and other roundings than the model's own choose others.
    """
    if not NativeDecoder.can_run(model, dtype):
        return False
    if (dtype or model.dtype) != torch.float32 and config_of(model).variant.experts is not None:
        return False
    try:
        NativeDecoder.compile(Formats(model.dtype, dtype or model.dtype))
    except NativeUnavailableError as exc:
        logger.warning("Steps run in torch, several times slower than in C: %s", exc)
        return False
    return True
