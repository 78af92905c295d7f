"""From a model's weights and its tokenizer to an engine: slots, prompts, grammars, adapters and the batching loop.

The second half of `llmapi_kit.loading.loader.ModelLoader.make_engine`, which says what is loaded and what computes it.
Imports torch. Part of loading: blocking.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.fit import SlotPlan, has_lazy_memory, plan_slots
from llmapi_kit.checkpoints.heap import trim_heap
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.dialects import Dialect, dialect_of
from llmapi_kit.engines.base import Message
from llmapi_kit.engines.local.capabilities import capabilities_of
from llmapi_kit.engines.local.engine import LocalEngine
from llmapi_kit.engines.local.prompt_builder import PromptBuilder
from llmapi_kit.engines.local.prompt_pictures import PromptPictures
from llmapi_kit.errors import MissingDependencyError, RequestError
from llmapi_kit.loading.adapter_reader import AdapterReader
from llmapi_kit.loading.draft import PROMPT_LOOKUP, draft_spec, load_draft, make_draft
from llmapi_kit.loading.runner_choice import architecture_of
from llmapi_kit.runners.base import Runner
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
from llmapi_kit.sampling.recommended import honoured
from llmapi_kit.sampling.tokenizer import ModelTokenizer, check_template
from llmapi_kit.types import EngineInfo

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.weights import LoadedModel

logger = logging.getLogger(__name__)

SHIPPED = {"pocket": "The small model", "pocket-vision": "The small model for drawings"}


class EngineAssembly:
    """Makes the engine of one model; loads its draft model, where the settings name one.

    Args:
        spec: which model.
        loaded: its weights, with the type that is computed in.
        tokenizer: of transformers, with its chat template.
        settings: of the engine.

    Attributes:
        images: where a runner finds vectors of pictures; None for a model of text alone.

    Raises:
        ModelError: the chat template is damaged, or the draft model can't be loaded.
    """

    def __init__(self, spec: ModelSpec, loaded: LoadedModel, tokenizer: Any, settings: Settings) -> None:
        check_template(tokenizer.chat_template, spec.name)
        self._spec, self._loaded, self._tokenizer, self._settings = spec, loaded, tokenizer, settings
        draft = draft_spec(settings)
        self._draft = load_draft(draft, loaded, tokenizer, spec.name, settings) if draft else None
        # Now, as the runner takes the weights over
        self._num_parameters = loaded.model.num_parameters()
        self._architecture = architecture_of(loaded)
        vision = loaded.vision
        self.images: ImageMemory | None = None
        if vision is not None:
            self.images = ImageMemory(is_spatial=vision.is_spatial, is_bidirectional=vision.is_bidirectional)

    def plan_slots(self, free_bytes: int) -> SlotPlan:
        """Divide the memory for keys and values.

        Args:
            free_bytes: what is free, once the weights are loaded.

        Raises:
            ModelTooLargeError: not even the shortest request has room.
        """
        loaded, draft = self._loaded, self._draft
        config = loaded.model.config.get_text_config()
        per_token = kv_bytes_per_token(config, loaded.kv_dtype or loaded.dtype)
        can_be_int8 = loaded.kv_dtype != "int8" and isinstance(loaded.model, DecoderWeights)
        int8_per_token = kv_bytes_per_token(config, "int8") if can_be_int8 else 0
        if draft is not None:
            draft_per_token = kv_bytes_per_token(draft.model.config.get_text_config(), draft.dtype)
            per_token += draft_per_token
            int8_per_token += draft_per_token if can_be_int8 else 0
        on_gpu = loaded.device.startswith("cuda")
        plan = plan_slots(
            per_token,
            loaded.context_length,
            free_bytes,
            on_gpu,
            self._settings,
            is_paged=not on_gpu and not loaded.is_divided and has_lazy_memory(),
            int8_bytes=int8_per_token,
        )
        if plan.advice:
            logger.warning("%s: %s", self._spec.id, plan.advice)
        return plan

    def make_engine(
        self,
        runner: Runner,
        plan: SlotPlan,
        *,
        prepare_messages: Callable[[Sequence[Message]], Sequence[Message]] | None,
        takes_adapters: bool,
    ) -> LocalEngine:
        """Start the engine.

        Args:
            runner: has taken the weights over; the engine closes it.
            plan: of its slots.
            prepare_messages: see `ModelLoader.prepare_messages`; None to take them as they come.
            takes_adapters: whether adapters can be served beside the model.
        """
        settings, loaded = self._settings, self._loaded
        draft = make_draft(self._draft, runner, plan, settings.draft, settings) if self._draft is not None else None
        trim_heap()
        if not getattr(runner, "can_rewind", True):  # what a slot has read can't be taken over in part
            settings = settings.model_copy(update={"prefix_cache": "off"})
        dialect = _dialect(self._tokenizer)
        tokenizer = ModelTokenizer(self._tokenizer, loaded.eos_ids, markers=dialect.markers)
        pictures = None
        if loaded.vision is not None and self.images is not None:
            pictures = PromptPictures(loaded.vision, self.images, tokenizer, settings, plan.max_length)
        reader = AdapterReader(
            self._tokenizer,
            device=loaded.device,
            stall_s=settings.download_stall_s,
            eos_ids=tokenizer.eos_ids,
            make_prompts=partial(
                _prompts,
                eos_ids=loaded.eos_ids,
                vocab_size=runner.vocab_size,
                is_cache_per_key=settings.prefix_cache == "per_key",
                pictures=pictures,
            ),
        )
        return LocalEngine(
            self._info(plan, tokenizer, dialect),
            runner,
            tokenizer,
            dialect=dialect,
            grammars=self._grammars(runner, tokenizer),
            max_queue=settings.max_queue or min(128, 4 * plan.num_slots),
            settings=settings,
            prompt_pictures=pictures,
            prepare_messages=prepare_messages,
            read_adapter=reader if takes_adapters and not loaded.is_divided else None,
            has_lookup=settings.draft == PROMPT_LOOKUP,
            draft=draft,
        )

    def _info(self, plan: SlotPlan, tokenizer: ModelTokenizer, dialect: Dialect) -> EngineInfo:
        loaded = self._loaded
        return EngineInfo(
            id=self._spec.id,
            context_length=plan.max_length,
            created=int(time.time()),
            description=_describe(self._spec, self._architecture),
            capabilities=capabilities_of(tokenizer.template_variables, dialect, sees=loaded.vision is not None),
            num_parameters=self._num_parameters,
            device=loaded.device,
            dtype=loaded.dtype,
            defaults=honoured(loaded.sampling_defaults, self._spec.name),
        )

    def _grammars(self, runner: Runner, tokenizer: ModelTokenizer) -> GrammarCompiler:
        grammars = GrammarCompiler(self._tokenizer, runner.vocab_size, tokenizer.eos_ids)
        # The first grammar would do it too, but hold up running streams: it takes the GIL for 0.7 s with a large
        # vocabulary
        with contextlib.suppress(RequestError, MissingDependencyError):  # the request that needs it will say so
            grammars.prepare()
        return grammars


def _prompts(
    tokenizer: Any,
    *,
    eos_ids: tuple[int, ...],
    vocab_size: int,
    is_cache_per_key: bool,
    pictures: PromptPictures | None,
) -> tuple[ModelTokenizer, PromptBuilder]:
    """What makes prompts with a tokenizer that an adapter brings."""
    dialect = _dialect(tokenizer)
    codec = ModelTokenizer(tokenizer, eos_ids, markers=dialect.markers)
    builder = PromptBuilder(codec, dialect, vocab_size, is_cache_per_key=is_cache_per_key, prompt_pictures=pictures)
    return codec, builder


def _dialect(tokenizer: Any) -> Dialect:
    """How the model writes, by its template; of several, the one that `apply_chat_template` takes."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return dialect_of(template, getattr(tokenizer, "response_template", None), added)


def _describe(spec: ModelSpec, architecture: str) -> str:
    if spec.name in SHIPPED:
        return f"{SHIPPED[spec.name]} that ships with the kit: a demonstration and a test bench, not an assistant."
    return f"{architecture} from {spec.name}"
