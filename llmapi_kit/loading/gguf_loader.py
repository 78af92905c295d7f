"""From a GGUF file to an engine: the step in C computes, or llama.cpp; tokenizer and chat template are the file's.

Blocking; called from a cell or a worker thread, and again each time a model is loaded anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.fit import Fit, SlotPlan, check_sizes, plan_slots
from llmapi_kit.checkpoints.gguf_file import GgufFile, open_gguf
from llmapi_kit.checkpoints.gguf_header import read_header
from llmapi_kit.checkpoints.mmproj import mmproj_bytes
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.dialects import Dialect, dialect_of
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.local.capabilities import capabilities_of
from llmapi_kit.errors import ConfigError, MissingDependencyError, ModelTooLargeError, RequestError
from llmapi_kit.loading.gguf_native import can_compute, make_native_runner, native_decoder, native_fit, native_plan
from llmapi_kit.loading.gguf_options import GgufOptions
from llmapi_kit.loading.gguf_pictures import PictureSetup, mmproj_of
from llmapi_kit.progress import report
from llmapi_kit.runners.libllama import load_libllama
from llmapi_kit.runners.llama_context import MAX_SLOTS, ContextOptions
from llmapi_kit.types import EngineInfo

if TYPE_CHECKING:
    from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
    from llmapi_kit.runners.base import Runner
    from llmapi_kit.runners.llama_cpp_runner import Steps
    from llmapi_kit.runners.multimodal_steps import VectorSteps

# What llama.cpp takes beside weights, keys and values: buffers of a step, and rows of logits
BUFFER_BYTES = 64 * 2**20
NUM_LOGITS, NUM_STATES = 64, 2048


def gguf_fit(file: GgufFile, settings: Settings, options: GgufOptions) -> Fit:
    """What a file's model needs as it is, against what is free.

    Args:
        file: whose heads were read.
        settings: slots; a recurrent model has a state in each.
        options: checked.
    """
    decoder = native_decoder(file, settings, options)
    return _llama_fit(file, settings, options) if decoder is None else native_fit(decoder, options)


def _llama_fit(file: GgufFile, settings: Settings, options: GgufOptions) -> Fit:
    """The same where llama.cpp computes."""
    added = sum(adapter.stat().st_size for adapter in options.adapters)
    if (mmproj := mmproj_of(file, options)) is not None:
        added += mmproj_bytes(mmproj)
    buffers = BUFFER_BYTES + 4 * (NUM_LOGITS * file.vocab_size + NUM_STATES * file.hidden_size)
    states = file.state_bytes() * min(settings.max_slots, MAX_SLOTS)
    per_token = file.kv_bytes_per_token(options.kv_cache_dtype or "f16")
    return check_sizes(file.weights_bytes + buffers + added + states, per_token, context_length(file, options), "cpu")


def context_length(file: GgufFile, options: GgufOptions) -> int:
    """Tokens a request may have: what it was trained with, or as many more as its positions are scaled for."""
    return int(file.context_length / min(1.0, options.rope_freq_scale or 1.0))


def load_gguf(spec: ModelSpec, path: Path, settings: Settings, options: GgufOptions) -> Engine:
    """Load a GGUF file and start its engine.

    Args:
        spec: as it was named.
        path: of the file; of a model in several, of any part.
        settings: slots, context and memory.
        options: checked.

    Raises:
        ModelError: it can't be loaded or served.
        ConfigError: an option can't be honoured by the library that is there.
        MissingDependencyError: it needs an extra that is not installed.
    """
    from llmapi_kit.engines.local.engine import LocalEngine
    from llmapi_kit.loading.gguf_adapters import check_adapter
    from llmapi_kit.loading.loader import add_adapters
    from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary
    from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
    from llmapi_kit.sampling.llama_tokenizer import LlamaTokenizer
    from llmapi_kit.sampling.marked_tokenizer import MarkedTokenizer
    from llmapi_kit.sampling.recommended import honoured
    from llmapi_kit.sampling.tokenizer import check_template

    file = open_gguf(path)
    if options.merged_adapter is not None:
        check_adapter(read_header(options.merged_adapter), file.architecture)
    template = file.chat_template
    check_template(template, spec.name)
    setup = _native_setup(spec, file, settings, options) or _llama_setup(spec, file, settings, options)
    runner, pictures = setup.runner, setup.pictures
    try:
        report("preparing the engine")
        dialect = _dialect(file)
        # After the runner: whatever the vocabulary does to the library, it did in another process first
        kind: Any = LlamaTokenizer if pictures is None else MarkedTokenizer
        tokenizer = kind(LlamaVocabulary(file.path), template, markers=dialect.markers)
        grammars = GrammarCompiler(tokenizer, runner.vocab_size, tokenizer.eos_ids)
        with contextlib.suppress(RequestError, MissingDependencyError):  # the request that needs it will say so
            grammars.prepare()
        info = EngineInfo(
            id=spec.id,
            context_length=setup.plan.max_length,
            created=int(time.time()),
            description=f"{file.architecture} from {spec.name}, {setup.computed_by}",
            capabilities=capabilities_of(tokenizer.template_variables, dialect, sees=pictures is not None),
            num_parameters=setup.num_parameters,
            device=setup.device,
            dtype=file.dtype,
            defaults=honoured({**file.sampling_defaults, **(options.sampling or {})}, spec.name),
        )
    except BaseException:
        runner.close()
        raise
    if not getattr(runner, "can_rewind", True):  # what a slot has read can't be taken over in part
        settings = settings.model_copy(update={"prefix_cache": "off"})
    prompt_pictures = pictures.prompt_pictures(tokenizer, setup.plan.max_length) if pictures is not None else None
    engine = LocalEngine(
        info,
        runner,
        tokenizer,
        dialect=dialect,
        grammars=grammars,
        max_queue=settings.max_queue or min(128, 4 * setup.plan.num_slots),
        settings=settings,
        prompt_pictures=prompt_pictures,
        read_adapter=setup.read_adapter,
    )
    add_adapters(engine, options.shared_adapters or {})
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """Who computes a file's model.

    Attributes:
        runner: with the weights.
        plan: its slots.
        num_parameters: of the model.
        computed_by: for people.
        device: ``cpu`` or ``cuda``.
        pictures: what looks at pictures, for a model that sees.
        read_adapter: what reads adapters that are added; None where there can't be any.
    """

    runner: Runner
    plan: SlotPlan
    num_parameters: int
    computed_by: str
    device: str = "cpu"
    pictures: PictureSetup | None = None
    read_adapter: Callable[[str], AdapterFiles] | None = None


def _native_setup(spec: ModelSpec, file: GgufFile, settings: Settings, options: GgufOptions) -> _Setup | None:
    """The step in C; None where it can't compute the file, or is not to."""
    from llmapi_kit.loading.gguf_adapters import NativeGgufAdapterReader
    from llmapi_kit.runners.load_trial import try_to_load

    decoder = native_decoder(file, settings, options)
    if decoder is None or _has_gpu(options) or not can_compute(decoder, options):
        return None
    _check_fit(spec, native_fit(decoder, options))
    plan = native_plan(decoder, settings, options)
    report("trying the file")
    try_to_load(file.path, has_weights=False)
    runner, num_parameters = make_native_runner(decoder, plan, settings, options)
    return _Setup(
        runner=runner,
        plan=plan,
        num_parameters=num_parameters,
        computed_by="in C",
        read_adapter=NativeGgufAdapterReader(decoder, file.architecture),
    )


def _llama_setup(spec: ModelSpec, file: GgufFile, settings: Settings, options: GgufOptions) -> _Setup:
    """llama.cpp, for all other files."""
    from llmapi_kit.loading.gguf_adapters import GgufAdapterReader
    from llmapi_kit.runners.llama_cpp_runner import LlamaCppRunner

    has_gpu = _has_gpu(options)
    plan = _plan(spec, file, settings, options)
    mmproj = mmproj_of(file, options)
    pictures = PictureSetup(file, mmproj, settings, has_gpu=has_gpu) if mmproj is not None else None
    context = _context_options(options, pictures)
    steps, num_parameters = _make_steps(file, plan, settings, options, context, pictures)
    return _Setup(
        runner=LlamaCppRunner(steps),
        plan=plan,
        num_parameters=num_parameters,
        computed_by="through llama.cpp",
        device="cuda" if has_gpu else "cpu",
        pictures=pictures,
        read_adapter=GgufAdapterReader(file, asdict(context)) if options.shared_adapters is not None else None,
    )


def _has_gpu(options: GgufOptions) -> bool:
    """Whether layers go to a GPU.

    Raises:
        ConfigError: they should, and the library that is there can't use one.
    """
    can = bool(load_libllama().llama_supports_gpu_offload())
    if options.device == "cuda" and not can:
        raise ConfigError(
            "device='cuda', but this build of libllama computes on the CPU only. Name one for CUDA in "
            "LLMAPI_KIT_LIBLLAMA, or leave device out."
        )
    return can and options.num_gpu_layers != 0


def _plan(spec: ModelSpec, file: GgufFile, settings: Settings, options: GgufOptions) -> SlotPlan:
    """How many requests run at once, and how long they may be.

    Raises:
        ModelTooLargeError: not even one fits.
    """
    fit = _llama_fit(file, settings, options)
    _check_fit(spec, fit)
    slots = settings.model_copy(update={"max_slots": min(settings.max_slots, MAX_SLOTS)})
    left = fit.free_bytes - fit.weights_bytes
    return plan_slots(max(1, fit.kv_bytes_per_token), fit.context_length, left, False, slots)


def _check_fit(spec: ModelSpec, fit: Fit) -> None:
    if not fit.fits:
        raise ModelTooLargeError(f"{spec.id} does not fit. {fit.advice}")


def _context_options(options: GgufOptions, pictures: PictureSetup | None) -> ContextOptions:
    whole = {"n_ubatch": pictures.n_ubatch} if pictures is not None else {}
    return ContextOptions(
        flash_attn=options.flash_attn,
        kv_cache_dtype=options.kv_cache_dtype or "f16",
        rope_scaling=options.rope_scaling,
        rope_freq_base=options.rope_freq_base,
        rope_freq_scale=options.rope_freq_scale,
        **whole,
    )


def _make_steps(
    file: GgufFile,
    plan: SlotPlan,
    settings: Settings,
    options: GgufOptions,
    context: ContextOptions,
    pictures: PictureSetup | None,
) -> tuple[Steps, int]:
    """Load the weights, here or in a process of their own, to be used with pictures; and the number of parameters."""
    if pictures is None:
        return _make_own_steps(file, plan, settings, options, context)
    try:
        steps, num_parameters = _make_own_steps(file, plan, settings, options, context)
    except BaseException:
        pictures.close()
        raise
    return pictures.seeing(steps), num_parameters


def _make_own_steps(
    file: GgufFile, plan: SlotPlan, settings: Settings, options: GgufOptions, context: ContextOptions
) -> tuple[VectorSteps, int]:
    """The same without pictures."""
    import torch

    from llmapi_kit.runners.llama_model import LlamaModel
    from llmapi_kit.runners.llama_process import LlamaProcess, StepsSetup
    from llmapi_kit.runners.llama_steps import LlamaSteps
    from llmapi_kit.runners.load_trial import try_to_load

    adapters = [options.merged_adapter] if options.merged_adapter is not None else []
    num_threads = settings.num_threads or torch.get_num_threads()
    if options.is_isolated:
        report("reading weights")
        process = LlamaProcess(
            StepsSetup(
                path=str(file.path),
                num_slots=plan.num_slots,
                max_length=plan.max_length,
                vocab_size=file.vocab_size,
                num_threads=num_threads,
                adapts_threads=not settings.num_threads,
                n_gpu_layers=options.num_gpu_layers,
                use_mmap=options.use_mmap,
                use_mlock=bool(options.use_mlock),
                lora=[str(each) for each in adapters],
                options=context,
            ),
            step_timeout_s=settings.step_timeout_s,
        )
        return process, process.num_parameters
    report("trying the file")
    try_to_load(file.path, lora=adapters, options=asdict(context))
    model = LlamaModel(
        file.path,
        n_gpu_layers=options.num_gpu_layers,
        use_mmap=options.use_mmap,
        use_mlock=bool(options.use_mlock),
        lora=adapters,
    )
    num_parameters = model.num_parameters
    steps = LlamaSteps(
        model,
        num_slots=plan.num_slots,
        max_length=plan.max_length,
        num_threads=num_threads,
        adapts_threads=not settings.num_threads,
        options=context,
    )
    return steps, num_parameters


def _dialect(file: GgufFile) -> Dialect:
    """How the model writes, by its template; of several, the one for tools."""
    template = file.chat_template
    if template is not None and not isinstance(template, str):
        template = template.get("tool_use") or template.get("default")
    return dialect_of(template, None, file.added_tokens)
