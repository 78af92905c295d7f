"""`ModelLoader`: from a model of transformers to an engine, in steps that a subclass can replace.

`kit.load` goes through the very same steps for every model that runs here. Blocking; called from a cell or a worker
thread, and again each time a model is loaded anew.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmapi_kit.checkpoints.spec import ModelSpec, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.adapters import adapters_of
from llmapi_kit.engines.base import Engine, Message
from llmapi_kit.errors import MissingDependencyError, UnsupportedModelError
from llmapi_kit.progress import report

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.fit import SlotPlan
    from llmapi_kit.checkpoints.weights import LoadedModel
    from llmapi_kit.runners.base import Runner
    from llmapi_kit.runners.image_memory import ImageMemory

Self = TypeVar("Self", bound="ModelLoader")


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
        """The messages of a request as the chat template is to get them: as they came, unless this is overridden.

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
            from llmapi_kit.loading.engine_assembly import EngineAssembly
            from llmapi_kit.loading.runner_choice import with_arithmetic
        except ModuleNotFoundError as exc:
            if (exc.name or "").split(".")[0] not in ("torch", "transformers", "jinja2"):
                raise
            raise MissingDependencyError(str(exc.name), "torch", f"Loading {self.spec.id}") from exc
        loaded = with_arithmetic(self.load_weights(), self.settings)  # which reports how far it is
        report("preparing the engine")
        assembly = EngineAssembly(self.spec, loaded, self.load_tokenizer(loaded), self.settings)
        plan = assembly.plan_slots(self._free_memory(loaded))
        runner = self._make_runner(loaded, plan, self.settings, assembly.images)
        engine = assembly.make_engine(
            runner,
            plan,
            prepare_messages=None if _is_inherited(self.prepare_messages) else self.prepare_messages,
            takes_adapters=self._shared_adapters is not None,
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
