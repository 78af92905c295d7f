"""The seam to llama.cpp: finds libllama, checks that it is one this module knows, and declares what is called of it.

Everything of llama.cpp's C API that the kit uses is declared here and nowhere else. The library is the one inside the
package xllamacpp, whose wheels need no compiler and run on every Linux since 2014; ``LLMAPI_KIT_LIBLLAMA`` names
another build, such as one for CUDA. Knows nothing of slots or requests. Calls into the library give the GIL away, but
for those that are over at once.

The structures that it takes change from version to version, and a wrong one would be read as nonsense. So each is
compared, field by field, with the defaults that the library itself fills in; fields that newer versions add at the end
are passed on as the library set them.

Source: https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h, release b11549.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_ubyte, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ConfigError, MissingDependencyError

VARIABLE = "LLMAPI_KIT_LIBLLAMA"
PACKAGE = "xllamacpp"
# Room for what newer versions have after the fields that are known; see the module
SPARE_BYTES = 256
ERROR_LEVEL = 4
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
CONTROL, USER_DEFINED, STRIPS = 1 << 3, 1 << 4, 1 << 7 | 1 << 8  # attributes of tokens
NO_POOLING = 0
BPE = 2  # kind of vocabulary


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class ModelParams(ctypes.Structure):
    """``llama_model_params``."""

    _fields_ = (
        *_fields(c_void_p, "devices tensor_buft_overrides"),
        *_fields(c_int32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
        *_fields(c_void_p, "tensor_split progress_callback progress_callback_user_data kv_overrides"),
        *_fields(c_bool, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
        ("spare", c_ubyte * SPARE_BYTES),
    )


class ContextParams(ctypes.Structure):
    """``llama_context_params``."""

    _fields_ = (
        *_fields(c_uint32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
        *_fields(c_int32, "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type"),
        *_fields(c_int32, "flash_attn_type"),
        *_fields(c_float, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor"),
        *_fields(c_float, "yarn_beta_fast yarn_beta_slow"),
        *_fields(c_uint32, "yarn_orig_ctx"),
        *_fields(c_float, "defrag_thold"),
        *_fields(c_void_p, "cb_eval cb_eval_user_data"),
        *_fields(c_int32, "type_k type_v"),
        *_fields(c_size_t, "moe_cache_size"),
        *_fields(c_void_p, "abort_callback abort_callback_data"),
        *_fields(c_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
        *_fields(c_void_p, "samplers"),
        *_fields(c_size_t, "n_samplers"),
        *_fields(c_void_p, "ctx_other"),
        ("spare", c_ubyte * SPARE_BYTES),
    )


class Batch(ctypes.Structure):
    """``llama_batch``: addresses of arrays with an entry a token."""

    _fields_ = (*_fields(c_int32, "n_tokens"), *_fields(c_void_p, "token embd pos n_seq_id seq_id logits"))


# What the library fills in; whatever is not here is 0, false or null
MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "use_extra_bufts": True}
CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    **dict.fromkeys(("n_seq_max", "n_outputs_max_per_seq", "type_k", "type_v"), 1),
    **dict.fromkeys(("n_threads", "n_threads_batch"), 4),
    **dict.fromkeys(("rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type", "defrag_thold"), -1),
    **dict.fromkeys(("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1),
    **dict.fromkeys(("offload_kqv", "no_perf", "op_offload", "swa_full"), True),
}
MMAP, MMAP_MLOCK, MLOCK, NO_MMAP = 1, 3, 2, 0  # load_mode

LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
PROGRESS = ctypes.CFUNCTYPE(c_bool, c_float, c_void_p)
# Each function: what it returns, and what it takes
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_version": (c_char_p, ()),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LOG, c_void_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_supports_gpu_offload": (c_bool, ()),
    "llama_supports_mlock": (c_bool, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_n_embd": (c_int32, (c_void_p,)),
    "llama_model_n_embd_inp": (c_int32, (c_void_p,)),
    "llama_model_n_params": (c_uint64, (c_void_p,)),
    "llama_model_size": (c_uint64, (c_void_p,)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_model_has_decoder": (c_bool, (c_void_p,)),
    "llama_model_is_recurrent": (c_bool, (c_void_p,)),
    "llama_model_is_hybrid": (c_bool, (c_void_p,)),
    "llama_model_is_diffusion": (c_bool, (c_void_p,)),
    "llama_adapter_lora_init": (c_void_p, (c_void_p, c_char_p)),
    "llama_adapter_lora_free": (None, (c_void_p,)),
    "llama_set_adapters_lora": (c_int32, (c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float))),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_n_ctx_seq": (c_uint32, (c_void_p,)),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_set_embeddings": (None, (c_void_p, c_bool)),
    "llama_set_causal_attn": (None, (c_void_p, c_bool)),
    "llama_batch_get_one": (Batch, (c_void_p, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_synchronize": (None, (c_void_p,)),
    "llama_get_logits": (c_void_p, (c_void_p,)),
    "llama_get_embeddings": (c_void_p, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_memory_seq_cp": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32)),
    "llama_memory_seq_pos_max": (c_int32, (c_void_p, c_int32)),
    "llama_vocab_type": (c_int32, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_get_text": (c_char_p, (c_void_p, c_int32)),
    "llama_vocab_get_attr": (c_int32, (c_void_p, c_int32)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    **{
        f"llama_vocab_{role}": (c_int32, (c_void_p,)) for role in ("bos", "eos", "pad", "fim_pre", "fim_suf", "fim_mid")
    },
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_detokenize": (c_int32, (c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool)),
}

# What takes microseconds, and is called in every step: giving the GIL away there lets another thread take it, and then
# the step waits for that one
QUICK = (
    "llama_set_n_threads",
    "llama_set_embeddings",
    "llama_get_logits",
    "llama_get_embeddings",
    "llama_memory_seq_rm",
)

_lock = threading.Lock()
_libraries: dict[Path, Any] = {}
_errors: deque[str] = deque(maxlen=8)


def _keep_errors(level: int, text: bytes, _data: int | None) -> None:
    """Keep what the library says of errors; the rest, thousands of lines a load, is dropped."""
    line = text.decode(errors="replace").strip()
    if level == ERROR_LEVEL and line:
        _errors.append(line)


log = LOG(_keep_errors)  # the library holds on to it


def take_errors() -> str:
    """What the library said went wrong since this was last called, the latest last."""
    lines = list(_errors)
    _errors.clear()
    return "; ".join(dict.fromkeys(lines)) or "it does not say why"


def find_libllama() -> Path:
    """Where the library is; it is not loaded.

    Raises:
        ConfigError: ``LLMAPI_KIT_LIBLLAMA`` names no file.
        MissingDependencyError: the package that has it is not installed.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"{VARIABLE} is {named!r}, which is not a file. Name a build of libllama, or unset it.")
        return path.resolve()
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations if found else None) or ():
        for path in sorted(Path(folder).glob(f"{PACKAGE}*")):
            if path.suffix in (".so", ".pyd", ".dylib"):
                return path
    raise MissingDependencyError(PACKAGE, "gguf", "Running a GGUF file")


def load_libllama() -> Any:
    """The library, with its functions declared; loaded once.

    Raises:
        ConfigError: it is not a build of libllama that is known here.
        MissingDependencyError: the package that has it is not installed.
    """
    path = find_libllama()
    with _lock:
        if path not in _libraries:
            _libraries[path] = _load(path)
        return _libraries[path]


def _load(path: Path) -> Any:
    try:
        library, held = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
    except OSError as exc:
        raise ConfigError(f"{path} can't be loaded as a library: {exc}") from exc
    for name, (returned, taken) in FUNCTIONS.items():
        try:
            function = getattr(held if name in QUICK else library, name)
        except AttributeError as exc:
            raise ConfigError(unknown(path, f"it has no function {name}")) from exc
        function.restype, function.argtypes = returned, taken
        setattr(library, name, function)
    check_defaults(path, library, library.llama_model_default_params(), MODEL_DEFAULTS)
    check_defaults(path, library, library.llama_context_default_params(), CONTEXT_DEFAULTS)
    library.llama_log_set(log, None)
    library.llama_backend_init()
    return library


def check_defaults(path: Path, library: Any, params: ctypes.Structure, defaults: dict[str, Any]) -> None:
    """Raise `ConfigError` unless a structure holds what the library of a known version puts there."""
    for name, *_ in params._fields_:
        value = getattr(params, name)
        if name != "spare" and (value or 0) != defaults.get(name, 0):
            version = library.llama_version().decode(errors="replace")
            what = f"its version is {version}, and {type(params).__name__}.{name} is {value}"
            raise ConfigError(unknown(path, f"{what} where {defaults.get(name, 0)} is expected"))


def unknown(path: Path, why: str) -> str:
    """The message for a library that is not a known one."""
    hint = f"Name another build in {VARIABLE}, or unset it." if os.environ.get(VARIABLE) else "Update llmapi-kit."
    return f"{path} is not a libllama that this version works with: {why}. It knows releases b11548 to b11739. {hint}"
