"""Reads a LoRA adapter for a model that is loaded: weights, and a chat template where it brings one.

Blocking; called from whichever thread adds an adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmapi_kit.checkpoints.adapter_files import Adapter, find_adapter
from llmapi_kit.checkpoints.fit import free_memory
from llmapi_kit.checkpoints.low_rank import LowRank, read_low_rank
from llmapi_kit.checkpoints.vocabulary import load_other_tokenizer
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
from llmapi_kit.engines.local.prompt_builder import PromptBuilder
from llmapi_kit.errors import ModelTooLargeError, UnsupportedModelError
from llmapi_kit.sampling.tokenizer import ModelTokenizer, check_template


class AdapterReader:
    """Reads adapters of one model.

    Args:
        tokenizer: of the model, as transformers has it.
        device: where its weights are.
        stall_s: see `llmapi_kit.checkpoints.download.Download`.
        eos_ids: tokens that end the model's answers.
        make_prompts: builds prompts with another tokenizer's chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        device: str,
        stall_s: float,
        eos_ids: frozenset[int],
        make_prompts: Callable[[Any], tuple[ModelTokenizer, PromptBuilder]],
    ) -> None:
        self._tokenizer = tokenizer
        self._device = device
        self._stall_s = stall_s
        self._eos_ids = eos_ids
        self._make_prompts = make_prompts

    def __call__(self, source: str) -> AdapterFiles:
        """Read one.

        Args:
            source: a folder or a hub name.

        Raises:
            ModelNotFoundError: there is none.
            UnsupportedModelError: it can't share the model with others; the message says how to load it.
            ModelLoadError: it is damaged, or there is no memory for it.
        """
        adapter = find_adapter(source, self._stall_s)
        if (needed := 2 * adapter.size_bytes) > (free := free_memory(self._device)):
            raise ModelTooLargeError(
                f"The adapter {adapter.name} takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free."
            )
        changes = read_low_rank(adapter)
        size = sum(change.num_bytes for change in changes.values())
        rank = max(change.rank for change in changes.values() if isinstance(change, LowRank))
        codec, prompts = self._prompts(adapter)
        eos_ids = codec.eos_ids - self._eos_ids if codec is not None else frozenset()
        return AdapterFiles(weights=changes, size_bytes=size, rank=rank, prompts=prompts, eos_ids=eos_ids)

    def _prompts(self, adapter: Adapter) -> tuple[ModelTokenizer | None, PromptBuilder | None]:
        """How the adapter was trained to be asked, where that is not as the model is."""
        if not adapter.has_tokenizer:
            return None, None
        theirs = load_other_tokenizer(str(adapter.folder), self._stall_s)
        if theirs.get_vocab() != self._tokenizer.get_vocab():
            raise UnsupportedModelError(
                f"The adapter {adapter.name} brings a tokenizer of {len(theirs):,} tokens that is not the model's (of "
                f"{len(self._tokenizer):,}), so it can't share the model with other adapters. Load it as a model of "
                f"its own, merged: kit.load(…, lora={adapter.name!r}, served_name=…)."
            )
        is_same = theirs.eos_token_id == self._tokenizer.eos_token_id
        if theirs.chat_template in (None, self._tokenizer.chat_template) and is_same:
            return None, None
        if theirs.chat_template is None:
            theirs.chat_template = self._tokenizer.chat_template
        check_template(theirs.chat_template, adapter.name)
        return self._make_prompts(theirs)
