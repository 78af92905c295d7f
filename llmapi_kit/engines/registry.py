"""From a model's name to an engine that answers.

What a kind of model needs is imported when it is asked for, so that the mock works without torch. Blocking; called
from a cell or a worker thread.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from llmapi_kit.config import Settings
from llmapi_kit.dialects import Dialect, dialect_of
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import MissingDependencyError, RequestError
from llmapi_kit.models.spec import ModelSpec
from llmapi_kit.types import EngineInfo

if TYPE_CHECKING:
    from llmapi_kit.sampling.tokenizer import ModelTokenizer


def make_engine(spec: ModelSpec, settings: Settings, **options: Any) -> Engine:
    """Load a model and start its engine.

    Args:
        spec: what to load.
        settings: slots, context and memory.
        options: `device` and `dtype`, for models that run here.

    Raises:
        ModelError: it can't be loaded or served.
        MissingDependencyError: it needs an extra that is not installed.
    """
    if spec.kind == "mock":
        from llmapi_kit.engines.mock import MockEngine

        return MockEngine(name=spec.id)
    return _make_torch(spec, settings, **options)


def _make_torch(spec: ModelSpec, settings: Settings, *, device: str | None = None, dtype: str | None = None) -> Engine:
    """A Hugging Face model behind the batching loop."""
    try:
        from llmapi_kit.engines.local import LocalEngine
        from llmapi_kit.models.fit import free_memory, kv_bytes_per_token, plan_slots
        from llmapi_kit.models.loading import load_model
        from llmapi_kit.runners.torch_runner import TorchRunner
        from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
        from llmapi_kit.sampling.tokenizer import ModelTokenizer
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] not in ("torch", "transformers", "jinja2"):
            raise
        raise MissingDependencyError(str(exc.name), "torch", f"Loading {spec.id}") from exc
    loaded = load_model(spec, device=device, dtype=dtype)
    per_token = kv_bytes_per_token(loaded.model.config.get_text_config(), loaded.dtype)
    on_gpu = loaded.device.startswith("cuda")
    plan = plan_slots(per_token, loaded.context_length, free_memory(loaded.device), on_gpu, settings)
    num_parameters = loaded.model.num_parameters()  # the runner takes weights over
    runner = TorchRunner(
        loaded.model,
        num_slots=plan.num_slots,
        max_length=plan.max_length,
        num_threads=settings.num_threads,
        native=settings.native,
        is_compiled=settings.compile,
    )
    dialect = _dialect(loaded.tokenizer)
    tokenizer = ModelTokenizer(loaded.tokenizer, loaded.eos_ids, markers=dialect.markers)
    info = EngineInfo(
        id=spec.id,
        context_length=plan.max_length,
        created=int(time.time()),
        description=_describe(spec, loaded.model),
        capabilities=_capabilities(tokenizer, dialect),
        num_parameters=num_parameters,
        device=loaded.device,
        dtype=loaded.dtype,
        defaults=loaded.sampling_defaults,
    )
    max_queue = settings.max_queue or min(128, 4 * plan.num_slots)
    grammars = GrammarCompiler(loaded.tokenizer, runner.vocab_size, tokenizer.eos_ids)
    # The first grammar would do it too, but hold up running streams: it takes the GIL for 0.7 s with a large vocabulary
    with contextlib.suppress(RequestError, MissingDependencyError):  # the request that needs it will say so
        grammars.prepare()
    return LocalEngine(
        info, runner, tokenizer, dialect=dialect, grammars=grammars, max_queue=max_queue, settings=settings
    )


def _dialect(tokenizer: Any) -> Dialect:
    """How the model writes, by its template; of several, the one that `apply_chat_template` takes."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return dialect_of(template, getattr(tokenizer, "response_template", None), added)


def _capabilities(tokenizer: ModelTokenizer, dialect: Dialect) -> tuple[str, ...]:
    variables = tokenizer.template_variables
    has = {
        "chat": bool(variables),
        "completions": True,
        "embeddings": True,
        "tools": "tools" in variables and dialect.has_calls,
        "reasoning": dialect.reasoning is not None,
    }
    return tuple(name for name, is_there in has.items() if is_there)


def _describe(spec: ModelSpec, model: Any) -> str:
    if spec.name == "pocket":
        return "The small model that ships with the kit: a demonstration and a test bench, not an assistant."
    return f"{type(model).__name__} from {spec.name}"
