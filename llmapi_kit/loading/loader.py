"""`ModelLoader`: from a model of transformers to an engine, in steps that a subclass can replace.

`kit.load` goes through the very same steps for every model that runs here. Blocking; called from a cell or a worker
thread, and again each time a model is loaded anew.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmapi_kit.checkpoints.spec import ModelSpec, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.dialects import Dialect, dialect_of
from llmapi_kit.engines.adapters import adapters_of
from llmapi_kit.engines.base import Engine, Message
from llmapi_kit.engines.local.capabilities import capabilities_of
from llmapi_kit.errors import MissingDependencyError, RequestError, UnsupportedModelError
from llmapi_kit.progress import report
from llmapi_kit.types import EngineInfo

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.fit import SlotPlan
    from llmapi_kit.checkpoints.weights import LoadedModel
    from llmapi_kit.runners.base import Runner
    from llmapi_kit.runners.image_memory import ImageMemory
    from llmapi_kit.sampling.tokenizer import ModelTokenizer

logger = logging.getLogger(__name__)

Self = TypeVar("Self", bound="ModelLoader")
SHIPPED = {"pocket": "The small model", "pocket-vision": "The small model for drawings"}


class ModelLoader:
    """Loads a model of transformers and starts its engine; pass one to `kit.load` in place of a name.

    Override a step to load another kind of model or to prepare messages another way. Each may run again: a model that
    was unloaded is loaded anew by the same steps.

    Args:
        name: as for `kit.load`: a folder, a hub name, ``pocket``.
        options: as for `kit.load`: ``device``, ``dtype``, ``max_slots`` and so on; what `load` is given wins.

    Attributes:
        spec: what the name means: `id` is what clients pass as ``model``, `path` the folder, if it is one.
        options: for `load_weights`.
        settings: slots, context and memory; those of `kit.load`.
    """

    def __init__(self, name: str | os.PathLike[str], **options: Any) -> None:
        self.spec = self.find(name)
        self.options: dict[str, Any] = options
        self.settings = Settings()

    def find(self, name: str | os.PathLike[str]) -> ModelSpec:
        """What the name means. Override it for what the kit does not know: ``ModelSpec(name, id, "folder", path)``.

        Raises:
            ModelError: it means nothing.
        """
        spec = parse_spec(name)
        if spec.kind in ("mock", "upstream", "plugin"):
            raise UnsupportedModelError(
                f"{name!r} is not loaded from files, so it takes no ModelLoader. Pass the name to kit.load()."
            )
        return spec

    def load_weights(self) -> LoadedModel:
        """Load the weights, and what comes with them.

        Where a loader overrides this step, what it gets from here has a causal language model of transformers, in
        evaluation mode. Where none does, the weights of a model that `NativeDecoder` knows come without one.

        Raises:
            ModelError: they can't be loaded.
        """
        from llmapi_kit.checkpoints.weights import load_model
        from llmapi_kit.runners.native.decoder import NativeDecoder

        settings = self.settings
        may_be_native = settings.native and not settings.compile and _is_inherited(self.load_weights)
        merged = None if self._shared_adapters is not None else self.options.get("lora")
        return load_model(
            self.spec,
            download_stall_s=settings.download_stall_s,
            has_native=NativeDecoder.is_available if may_be_native else None,
            **{**self.options, "lora": merged},
        )

    @property
    def _shared_adapters(self) -> Mapping[str, str] | None:
        """Adapters to serve beside the model, by name; None where one is to be merged."""
        lora = self.options.get("lora")
        return lora if isinstance(lora, Mapping) else {} if lora is None else None

    def load_tokenizer(self, loaded: LoadedModel) -> Any:
        """The tokenizer, with its chat template; the one that came with the weights."""
        return loaded.tokenizer

    def prepare_messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages of a request as the chat template shall get them; as they came.

        Runs in worker threads, for several requests at once. They are OpenAI-shaped, and not to be changed in place.

        Raises:
            InvalidRequestError: they can't be used.
        """
        return messages

    def make_engine(self) -> Engine:
        """Take all steps.

        Raises:
            ModelError: it can't be loaded or served.
            MissingDependencyError: it needs an extra that is not installed.
        """
        if "torch" not in sys.modules:
            report("importing torch")
        try:
            from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token
            from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
            from llmapi_kit.checkpoints.fit import has_lazy_memory, plan_slots
            from llmapi_kit.checkpoints.heap import trim_heap
            from llmapi_kit.engines.local.engine import LocalEngine
            from llmapi_kit.engines.local.prompt_builder import PromptBuilder
            from llmapi_kit.engines.local.prompt_pictures import PromptPictures
            from llmapi_kit.loading.adapter_reader import AdapterReader
            from llmapi_kit.loading.draft import PROMPT_LOOKUP, draft_spec, load_draft, make_draft
            from llmapi_kit.loading.runner_choice import architecture_of, with_arithmetic
            from llmapi_kit.runners.image_memory import ImageMemory
            from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
            from llmapi_kit.sampling.recommended import honoured
            from llmapi_kit.sampling.tokenizer import ModelTokenizer, check_template
        except ModuleNotFoundError as exc:
            if (exc.name or "").split(".")[0] not in ("torch", "transformers", "jinja2"):
                raise
            raise MissingDependencyError(str(exc.name), "torch", f"Loading {self.spec.id}") from exc
        settings = self.settings
        loaded = with_arithmetic(self.load_weights(), settings)  # which reports how far it is
        report("preparing the engine")
        their_tokenizer = self.load_tokenizer(loaded)
        check_template(their_tokenizer.chat_template, self.spec.name)
        text_config = loaded.model.config.get_text_config()
        per_token = kv_bytes_per_token(text_config, loaded.kv_dtype or loaded.dtype)
        can_be_int8 = loaded.kv_dtype != "int8" and isinstance(loaded.model, DecoderWeights)
        int8_per_token = kv_bytes_per_token(text_config, "int8") if can_be_int8 else 0
        drafting = draft_spec(settings)
        drafted = load_draft(drafting, loaded, their_tokenizer, self.spec.name, settings) if drafting else None
        if drafted is not None:
            draft_per_token = kv_bytes_per_token(drafted.model.config.get_text_config(), drafted.dtype)
            per_token += draft_per_token
            int8_per_token += draft_per_token if can_be_int8 else 0
        on_gpu = loaded.device.startswith("cuda")
        plan = plan_slots(
            per_token,
            loaded.context_length,
            self._free_memory(loaded),
            on_gpu,
            settings,
            is_paged=not on_gpu and not loaded.is_divided and has_lazy_memory(),
            int8_bytes=int8_per_token,
        )
        if plan.advice:
            logger.warning("%s: %s", self.spec.id, plan.advice)
        num_parameters = loaded.model.num_parameters()  # the runner takes weights over
        architecture = architecture_of(loaded)
        vision = loaded.vision
        images = ImageMemory(is_spatial=vision.is_spatial, is_two_way=vision.is_two_way) if vision is not None else None
        runner = self._make_runner(loaded, plan, settings, images)
        draft = make_draft(drafted, runner, plan, settings.draft, settings) if drafted is not None else None
        trim_heap()
        if not getattr(runner, "can_rewind", True):  # what a slot has read can't be taken over in part
            settings = settings.model_copy(update={"prefix_cache": "off"})
        dialect = _dialect(their_tokenizer)
        tokenizer = ModelTokenizer(their_tokenizer, loaded.eos_ids, markers=dialect.markers)
        info = EngineInfo(
            id=self.spec.id,
            context_length=plan.max_length,
            created=int(time.time()),
            description=_describe(self.spec, architecture),
            capabilities=capabilities_of(tokenizer.template_variables, dialect, sees=vision is not None),
            num_parameters=num_parameters,
            device=loaded.device,
            dtype=loaded.dtype,
            defaults=honoured(loaded.sampling_defaults, self.spec.name),
        )
        grammars = GrammarCompiler(their_tokenizer, runner.vocab_size, tokenizer.eos_ids)
        # The first grammar would do it too, but hold up running streams: it takes the GIL for 0.7 s with a large
        # vocabulary
        with contextlib.suppress(RequestError, MissingDependencyError):  # the request that needs it will say so
            grammars.prepare()
        prompt_pictures = None
        if vision is not None and images is not None:
            prompt_pictures = PromptPictures(vision, images, tokenizer, settings, plan.max_length)

        def make_prompts(theirs: Any) -> tuple[ModelTokenizer, PromptBuilder]:
            own = _dialect(theirs)
            codec = ModelTokenizer(theirs, loaded.eos_ids, markers=own.markers)
            is_per_key = settings.prefix_cache == "per_key"
            return codec, PromptBuilder(
                codec, own, runner.vocab_size, is_cache_per_key=is_per_key, prompt_pictures=prompt_pictures
            )

        reader = AdapterReader(
            their_tokenizer,
            device=loaded.device,
            stall_s=settings.download_stall_s,
            eos_ids=tokenizer.eos_ids,
            make_prompts=make_prompts,
        )
        engine = LocalEngine(
            info,
            runner,
            tokenizer,
            dialect=dialect,
            grammars=grammars,
            max_queue=settings.max_queue or min(128, 4 * plan.num_slots),
            settings=settings,
            prompt_pictures=prompt_pictures,
            prepare_messages=None if _is_inherited(self.prepare_messages) else self.prepare_messages,
            read_adapter=reader if self._shared_adapters is not None and not loaded.is_divided else None,
            has_lookup=settings.draft == PROMPT_LOOKUP,
            draft=draft,
        )
        add_adapters(engine, self._shared_adapters or {})
        return engine

    def _free_memory(self, loaded: LoadedModel) -> int:
        """Bytes that are free for keys and values, once the weights are loaded."""
        from llmapi_kit.checkpoints.device_map import free_beside
        from llmapi_kit.checkpoints.fit import free_memory

        return free_beside(loaded.model, free_memory) if loaded.is_divided else free_memory(loaded.device)

    def _make_runner(
        self, loaded: LoadedModel, plan: SlotPlan, settings: Settings, images: ImageMemory | None
    ) -> Runner:
        """What computes with the weights, which it takes over."""
        from llmapi_kit.loading.runner_choice import make_runner

        return make_runner(loaded, plan, settings, images)

    @classmethod
    def of(cls, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> ModelLoader:
        """A loader for a name that is understood already."""
        loader = cls.__new__(cls)
        loader.spec, loader.settings, loader.options = spec, settings, dict(options)
        return loader

    @property
    def identity(self) -> str:
        """The same for two of one class that load the same thing in the same way, by all of their attributes."""
        return repr(sorted(vars(self).items()))

    def loaded_with(self: Self, spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> Self:
        """A copy for one load, with what `kit.load` was given."""
        copied = copy.copy(self)
        copied.spec, copied.settings, copied.options = spec, settings, dict(options)
        return copied


def _is_inherited(step: Any) -> bool:
    """Whether a loader's step is `ModelLoader`'s own, not one of a subclass or set on the loader."""
    return getattr(step, "__func__", None) is getattr(ModelLoader, step.__name__)


def add_adapters(engine: Engine, sources: Mapping[str, str]) -> None:
    """Serve a model's adapters from the start; where one can't be, nothing is."""
    adapters = adapters_of(engine)
    try:
        for name, source in sources.items():
            if adapters is None:
                raise UnsupportedModelError(f"The model {engine.info.id!r} takes no adapters; lora names {name!r}.")
            report(f"reading the adapter {name}")
            adapters.add(source, name)
    except BaseException:
        engine.close()
        raise


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
