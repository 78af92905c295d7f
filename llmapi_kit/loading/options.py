"""What `kit.load` and `kit.launch` take by name: typed, for editors and for Shift-Tab; and what other tools call it.

Loads nothing and checks no values. A test holds the names against `llmapi_kit.config.Settings` and the sources.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import SecretStr
from typing_extensions import TypedDict

from llmapi_kit.config import CompatApi
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
PrefixCache = Literal["per_key", "shared", "off"]
PathLike = str | os.PathLike[str]
Draft = Literal["off", "prompt-lookup"] | PathLike


class _ModelSettings(TypedDict, total=False):
    """Settings of the engine of a model that runs here."""

    max_slots: int | None
    context_length: int | None
    kv_memory: int | None
    num_threads: int | None
    native: bool | None
    compile: bool | None
    step_tokens: int | None
    default_max_tokens: int | None
    max_queue: int | None
    prefix_cache: PrefixCache | None
    draft: Draft | None
    draft_tokens: int | None
    download_stall_s: float | None
    step_timeout_s: float | None


class _ProviderSettings(TypedDict, total=False):
    """Settings of the engine of a provider's model."""

    first_token_timeout_s: float | None
    upstream_connect_s: float | None
    upstream_answer_s: float | None
    upstream_silence_s: float | None
    upstream_retries: int | None
    upstream_retry_s: float | None


class _VectorOptions(TypedDict, total=False):
    """How an embedding model makes vectors, in place of what its folder says."""

    pooling: Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] | None
    normalize: bool | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    matryoshka_dimensions: Sequence[int] | None


class EmbeddingOptions(_VectorOptions, total=False):
    """What `kit.load_embeddings` takes besides the name; the docstring there says what each is."""

    device: str | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    context_length: int | None
    num_threads: int | None
    max_queue: int | None
    download_stall_s: float | None
    step_timeout_s: float | None
    fallback: Any


class LoadOptions(_ModelSettings, _ProviderSettings, _VectorOptions, total=False):
    """What `kit.load` takes besides the name; the docstring there says what each is."""

    device: str | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    lora: PathLike | Sequence[PathLike] | Mapping[str, PathLike] | None
    tokenizer: PathLike | None
    quantize: Literal["int8", "int4", "8bit", "4bit"] | None
    sampling: Mapping[str, Any] | None
    revision: str | None
    subfolder: str | None
    trust_remote_code: bool | None
    n_gpu_layers: int | None
    flash_attn: bool | None
    kv_cache_dtype: (
        Literal["float32", "bfloat16", "int8", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
        | None
    )
    use_mmap: bool | None
    use_mlock: bool | None
    rope_scaling: Literal["none", "linear", "yarn"] | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    mmproj: PathLike | Literal[False] | None
    isolate: bool | None
    process: bool | None
    replicas: int | None
    devices: Sequence[int | str] | None
    tensor_parallel: int | None
    device_map: str | Mapping[str, int | str] | None
    fallback: Any
    api_key: str | Sequence[str] | None
    base_url: str | None


class LaunchSettings(_ModelSettings, _ProviderSettings, total=False):
    """The settings that `kit.launch` takes; see `llmapi_kit.config.Settings`."""

    home: Path | str | None
    max_stall_s: float | None
    idle_unload_s: float | None
    load_wait_s: float | None
    max_body_bytes: int | None
    max_image_body_bytes: int | None
    image_hosts: Sequence[str] | str | None
    max_images: int | None
    max_image_pixels: int | None
    max_json_depth: int | None
    max_answers: int | None
    max_stop_strings: int | None
    database_url: SecretStr | str | None
    database_timeout_s: float | None
    session_expire_s: float | None
    max_sessions: int | None
    max_stored_completions: int | None
    max_stored_responses: int | None
    max_stored_bytes: int | None
    stored_expire_s: float | None
    compat: Sequence[CompatApi] | str | None
    bots: Mapping[str, Any] | str | None
    cors_origins: Sequence[str] | str | None
    event_token_s: int | None
    instruction_template: str | None
    queue_timeout_s: float | None
    total_timeout_s: float | None
    stalled_reader_s: float | None
    keep_alive_s: float | None
    drain_s: float | None
    start_timeout_s: float | None
    request_log: bool | None


LOAD_ONLY = tuple(name for name in LoadOptions.__annotations__ if name not in LaunchSettings.__annotations__)
LAUNCH_ONLY = ("port", "host", "share", "tunnel", "tunnel_options", "aliases", "default", "name")

_TOKENS = "The most tokens of an answer are default_max_tokens here; a request says max_tokens."
_CONTEXT = "It is context_length here."
_DEVICE = 'It is device="cuda" here, or device="cuda:1" for the second GPU; the first is taken by itself.'
_DEVICES = 'It is device="cuda:1" here for the second GPU, or devices=[0, 1] for a replica on each of two.'
_SLOTS = "Requests answered at once are max_slots here."
_THREADS = "It is num_threads here."
_SAMPLING = 'What a model samples with where a request does not say is sampling={"temperature": 0.7} here.'
_KV = "Memory for keys and values is kv_memory here, in bytes."
_KV_DTYPE = 'The number format of keys and values is kv_cache_dtype="q8_0" here for GGUF files, "int8" for others.'
_GPU_LAYERS = "It is n_gpu_layers here, for GGUF files."
_DRAFT = 'A small model that guesses is draft="owner/name" here, a folder or a hub name.'
_DRAFT_TOKENS = "How many tokens are guessed at once is draft_tokens here."
_ATTENTION = (
    "Attention is computed over the slots of all requests by the kit's own code, so there is none of transformers' to "
    "choose; where a model has to run by its own, transformers chooses."
)
_TUNNEL = 'A public address is share=True here, or a tunnel="ngrok" of your choice.'
_TOKEN = "ngrok's token is found in NGROK_AUTHTOKEN: an environment variable, or a secret of Colab or Kaggle."  # noqa: S105
_KEY = "It is api_key here; without one, a random key is made."
_NAME = "The name that clients use is served_name here, an argument of kit.load()."

_COMMON_HABITS = {
    "max_tokens": _TOKENS,
    "max_new_tokens": _TOKENS,
    "n_predict": _TOKENS,
    "n_ctx": _CONTEXT,
    "num_ctx": _CONTEXT,
    "ctx_size": _CONTEXT,
    "max_model_len": _CONTEXT,
    "max_seq_len": _CONTEXT,
    "max_num_seqs": _SLOTS,
    "n_parallel": _SLOTS,
    "batch_size": _SLOTS,
    "max_batch_size": _SLOTS,
    "concurrency": _SLOTS,
    "n_threads": _THREADS,
    "threads": _THREADS,
    "gpu_memory_utilization": _KV,
    "speculative_model": _DRAFT,
    "speculative_config": _DRAFT,
    "assistant_model": _DRAFT,
    "draft_model": _DRAFT,
    "model_draft": _DRAFT,
    "num_speculative_tokens": _DRAFT_TOKENS,
    "num_assistant_tokens": _DRAFT_TOKENS,
    "num_draft_tokens": _DRAFT_TOKENS,
    "prompt_lookup_num_tokens": 'Guesses from the prompt are draft="prompt-lookup" here; draft_tokens says how many.',
    "served_model_name": _NAME,
    "model_name": _NAME,
}
LOAD_HABITS = {
    **_COMMON_HABITS,
    "gpu": _DEVICE,
    "gpus": _DEVICES,
    "use_gpu": _DEVICE,
    "cuda": _DEVICE,
    "tensor_parallel_size": "It is tensor_parallel here.",
    "tp_size": "It is tensor_parallel here.",
    "tp": "It is tensor_parallel here.",
    "tp_plan": "It is tensor_parallel=2 here, by the model's own plan.",
    "data_parallel_size": "It is replicas here, or devices=[0, 1] for a replica on each of two GPUs.",
    "num_replicas": "It is replicas here, or devices=[0, 1] for a replica on each of two GPUs.",
    "torch_dtype": "It is dtype here.",
    "gpu_layers": _GPU_LAYERS,
    "num_gpu_layers": _GPU_LAYERS,
    "flash_attention": "It is flash_attn here, for GGUF files.",
    "type_k": _KV_DTYPE,
    "type_v": _KV_DTYPE,
    "cache_type_k": _KV_DTYPE,
    "cache_type_v": _KV_DTYPE,
    "kv_cache_type": _KV_DTYPE,
    "load_in_8bit": 'It is quantize="8bit" here, or quantize="int8" on a CPU.',
    "load_in_4bit": 'It is quantize="4bit" here, or quantize="int4" on a CPU.',
    "quantization": 'It is quantize="int8" or "int4" here; on a GPU "8bit" or "4bit".',
    "adapter": "It is lora here.",
    "lora_path": "It is lora here.",
    "clip_model_path": "It is mmproj here, for GGUF files.",
    "mmproj_path": "It is mmproj here, for GGUF files.",
    "temperature": _SAMPLING,
    "top_p": _SAMPLING,
    "top_k": _SAMPLING,
    "attn_implementation": _ATTENTION,
    "attention_implementation": _ATTENTION,
    "_attn_implementation": _ATTENTION,
    "use_flash_attention_2": _ATTENTION,
    "code_revision": "The code is that of revision, the version of the model itself.",
    "token": "The hub's token is read from HF_TOKEN in the environment.",
    "hf_token": "The hub's token is read from HF_TOKEN in the environment.",
    "system": "A system prompt goes with the request: the first of its messages.",
    **{name: f"It is an argument of kit.launch(): kit.launch(kit.load(…), {name}=…)." for name in LAUNCH_ONLY},
}
LAUNCH_HABITS = {
    **_COMMON_HABITS,
    "public": _TUNNEL,
    "ngrok": _TUNNEL,
    "ngrok_token": _TOKEN,
    "auth_token": _TOKEN,
    "authtoken": _TOKEN,
    "domain": 'It is tunnel_options={"domain": …} here.',
    "server_port": "It is port here.",
    "server_name": "It is host here.",
    "address": "It is host here.",
    "listen": 'It is host="0.0.0.0" here: every address of this machine.',
    "auth": _KEY,
    "key": _KEY,
    "password": _KEY,
    "require_key": "A key is asked for always, unless api_key=False.",
    "timeout": "It is total_timeout_s here; queue_timeout_s and first_token_timeout_s end a request sooner.",
    "cors": "It is cors_origins here.",
    "allow_origins": "It is cors_origins here.",
    "model": "The model is the first argument, without a name.",
    "served_name": _NAME,
    "inbrowser": "The server has an API and no page; its address is server.url.",
    "workers": "One server answers many requests at once; see max_slots.",
    **{
        name: f"It is an argument of kit.load(): kit.launch(kit.load(…, {name}=…))."
        for name in LOAD_ONLY
        if name != "api_key"
    },
}


def unknown_load_option(name: str, model: str, known: Iterable[str]) -> ConfigError:
    """The error for an argument that `kit.load` does not have for a model."""
    names = [*known, "served_name", "lazy"]
    is_elsewhere = name in LoadOptions.__annotations__
    hint = " It goes with models of another kind." if is_elsewhere else did_you_mean(name, names, LOAD_HABITS)
    return ConfigError(f"load() has no argument {name!r} for {model!r}.{hint} It takes {', '.join(names)}.")


def check_launch_settings(given: Iterable[str]) -> None:
    """Raise `ConfigError` for an argument that `kit.launch` does not have."""
    for name in given:
        if name not in LaunchSettings.__annotations__:
            names = [*LAUNCH_ONLY, "api_key", *sorted(LaunchSettings.__annotations__)]
            hint = did_you_mean(name, names, LAUNCH_HABITS) or f" It takes {', '.join(names)}."
            raise ConfigError(f"launch() has no argument {name!r}.{hint}")


def showing(options: Any, *, also: str | None = None) -> Callable[[FunctionT], FunctionT]:
    """Let a function's signature list the options that it takes as ``**``: Jupyter shows and completes those only.

    Args:
        options: a `TypedDict`.
        also: what ``**`` is called where the function takes more than these; None where it does not.
    """

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        kept = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=None, annotation=_in_words(annotation))
            for name, annotation in options.__annotations__.items()
        ]
        rest = [inspect.Parameter(also, inspect.Parameter.VAR_KEYWORD, annotation=Any)] if also else []
        function.__signature__ = signature.replace(parameters=[*kept, *added, *rest])  # type: ignore[attr-defined]
        return function

    return decorate


def showing_those_of(other: Callable[..., Any]) -> Callable[[FunctionT], FunctionT]:
    """Let a function's signature list what it passes on to another function as ``**``."""

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        passed = [
            each for each in inspect.signature(other).parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        function.__signature__ = signature.replace(parameters=[*own, *passed])  # type: ignore[attr-defined]
        return function

    return decorate


def _in_words(annotation: Any) -> str:
    """An annotation as it is written above."""
    return str(getattr(annotation, "__forward_arg__", annotation))
