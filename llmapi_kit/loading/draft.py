"""The draft model of a load: which it is, what it takes, and how it is brought together with the model it drafts for.

It is loaded as `kit.load` would load it, on the model's device. Part of loading: blocking.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.architecture import check_architecture
from llmapi_kit.checkpoints.fit import MemoryNeed, SlotPlan, folder_need
from llmapi_kit.checkpoints.hub_cache import cached_folder
from llmapi_kit.checkpoints.model_files import CONFIG, check_files, read_json
from llmapi_kit.checkpoints.spec import ModelSpec, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from llmapi_kit.progress import report

if TYPE_CHECKING:
    from llmapi_kit.batching.draft_model import DraftModel
    from llmapi_kit.checkpoints.weights import LoadedModel
    from llmapi_kit.runners.base import Runner

OFF, PROMPT_LOOKUP = "off", "prompt-lookup"


def draft_spec(settings: Settings) -> ModelSpec | None:
    """The draft model that settings name; None where none is to be loaded.

    Raises:
        ConfigError: the setting names no model.
        UnsupportedModelError: it names one that can't draft.
    """
    name = settings.draft
    if name in (OFF, PROMPT_LOOKUP):
        return None
    try:
        spec = parse_spec(name)
    except ModelNotFoundError as exc:
        raise ConfigError(
            f"draft is {name!r}; it must be {PROMPT_LOOKUP!r}, {OFF!r}, or the folder or hub name of a small model. "
            f"{exc}"
        ) from exc
    if spec.kind not in ("folder", "hub"):
        raise UnsupportedModelError(
            f"draft={name!r} can't draft: a draft model is a folder with config.json and *.safetensors, or a hub name."
        )
    return spec


def check_draft(settings: Settings) -> None:
    """Raise unless what drafts can be had, as far as that can be told without loading it.

    Raises:
        ConfigError: see `draft_spec`.
        ModelError: its files are not what they should be.
    """
    spec = draft_spec(settings)
    if spec is not None and spec.path is not None:
        check_architecture(read_json(spec.path / CONFIG), spec.name)
        check_files(spec.path)


def with_draft(need: MemoryNeed, settings: Settings) -> MemoryNeed:
    """What a model takes together with its draft, as far as that can be told before."""
    spec = draft_spec(settings)
    folder = None if spec is None else spec.path or cached_folder(spec.name, None)
    if folder is None or not need.device:
        return need
    added = folder_need(folder, need.device, None, settings)
    return replace(
        need,
        least_bytes=need.least_bytes + added.least_bytes,
        wanted_bytes=need.wanted_bytes + added.wanted_bytes,
        most_bytes=need.most_bytes + added.least_bytes,  # keys and values of both share what is set aside for them
    )


def load_draft(spec: ModelSpec, loaded: LoadedModel, tokenizer: Any, name: str, settings: Settings) -> LoadedModel:
    """Load a draft model.

    Args:
        spec: which.
        loaded: the model that it drafts for.
        tokenizer: that model's.
        name: that model's, for messages.
        settings: of its engine.

    Raises:
        UnsupportedModelError: it has another vocabulary, or can't draft.
        ModelError: it can't be loaded.
    """
    from llmapi_kit.checkpoints.weights import load_model
    from llmapi_kit.loading.runner_choice import with_arithmetic
    from llmapi_kit.runners.native.decoder import NativeDecoder

    report("loading the draft model")
    draft = load_model(
        spec,
        device=loaded.device,
        download_stall_s=settings.download_stall_s,
        has_native=NativeDecoder.is_available if settings.native and not settings.compile else None,
    )
    if draft.vision is not None:
        raise UnsupportedModelError(f"draft={spec.name!r} sees pictures; a draft model is one of text alone.")
    theirs, ours = draft.tokenizer.get_vocab(), tokenizer.get_vocab()
    if theirs != ours:
        token = min(set(theirs.items()) ^ set(ours.items()), key=lambda pair: pair[1])[0]
        raise UnsupportedModelError(
            f"draft={spec.name!r} has another vocabulary than {name} ({len(theirs):,} and {len(ours):,} tokens; the "
            f"first that differs is {token!r}), so its tokens mean something else. Choose a smaller model of the same "
            f"family, or draft={PROMPT_LOOKUP!r}."
        )
    return with_arithmetic(draft, settings)


def make_draft(draft: LoadedModel, target: Runner, plan: SlotPlan, name: str, settings: Settings) -> DraftModel:
    """The draft model, ready; it takes the weights over.

    Args:
        draft: from `load_draft`.
        target: the runner that it drafts for.
        plan: slots of that one.
        name: the draft's, for messages.
        settings: of the engine.

    Raises:
        UnsupportedModelError: one of the two can't go back to a prefix.
    """
    from llmapi_kit.batching.draft_model import DraftModel
    from llmapi_kit.checkpoints.architecture import context_limit
    from llmapi_kit.loading.runner_choice import make_runner

    limit = context_limit(draft.model.config.get_text_config()) or plan.max_length
    runner = make_runner(draft, replace(plan, max_length=min(plan.max_length, limit)), settings)
    for each, what in ((target, "The model"), (runner, f"draft={name!r}")):
        if not getattr(each, "can_rewind", True):
            runner.close()
            raise UnsupportedModelError(
                f"{what} keeps a state that can't go back to where a guess was wrong. Leave draft out."
            )
    return DraftModel(
        runner,
        vocab_size=target.vocab_size,
        step_tokens=settings.step_tokens,
        has_prefix_cache=settings.prefix_cache != "off",
    )
