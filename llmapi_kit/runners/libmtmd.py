"""The seam to llama.cpp's part for pictures: finds libmtmd, checks that it is known, declares what is called of it.

It is inside the package xllamacpp, in the library that has libllama; where ``LLMAPI_KIT_LIBLLAMA`` names another build,
it is the file libmtmd beside that one. As `llmapi_kit.runners.libllama` does, this compares what the library fills in
with what a known version does. Calls into the library give the GIL away.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/mtmd/mtmd.h, release b11549.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_ubyte, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ConfigError
from llmapi_kit.runners import libllama

FILES = ("libmtmd.so", "libmtmd.so.0", "libmtmd.dylib", "mtmd.dll")
TEXT, IMAGE = 0, 1  # kinds of chunk


class ContextParams(ctypes.Structure):
    """``mtmd_context_params``."""

    _fields_ = (
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("print_timings", c_bool),
        ("n_threads", c_int32),
        ("image_marker", c_char_p),
        ("media_marker", c_char_p),
        ("flash_attn_type", c_int32),
        ("warmup", c_bool),
        ("image_min_tokens", c_int32),
        ("image_max_tokens", c_int32),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("batch_max_tokens", c_int32),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("spare", c_ubyte * libllama.SPARE_BYTES),
    )


class InputText(ctypes.Structure):
    """``mtmd_input_text``."""

    _fields_ = (("text", c_char_p), ("text_len", c_size_t), ("add_special", c_bool), ("parse_special", c_bool))


class DecoderPosition(ctypes.Structure):
    """``mtmd_decoder_pos``: where a vector stands for models whose positions have several dimensions."""

    _fields_ = (("t", c_uint32), ("x", c_uint32), ("y", c_uint32), ("z", c_uint32))


MARKER = b"<__media__>"  # stands for a picture in a text that is tokenized
# What the library fills in; whatever is not here is 0, false or null
DEFAULTS = {
    "use_gpu": True,
    "print_timings": True,
    "n_threads": 4,
    "media_marker": MARKER,
    "flash_attn_type": -1,
    "warmup": True,
    "image_min_tokens": -1,
    "image_max_tokens": -1,
    "batch_max_tokens": 1024,
}

# Each function: what it returns, and what it takes
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mtmd_log_set": (None, (libllama.LOG, c_void_p)),
    "mtmd_context_params_default": (ContextParams, ()),
    "mtmd_init_from_file": (c_void_p, (c_char_p, c_void_p, ContextParams)),
    "mtmd_support_vision": (c_bool, (c_void_p,)),
    "mtmd_decode_use_mrope": (c_bool, (c_void_p,)),
    "mtmd_decode_use_non_causal": (c_bool, (c_void_p, c_void_p)),
    "mtmd_bitmap_init": (c_void_p, (c_uint32, c_uint32, c_char_p)),
    "mtmd_bitmap_free": (None, (c_void_p,)),
    "mtmd_input_chunks_init": (c_void_p, ()),
    "mtmd_input_chunks_size": (c_size_t, (c_void_p,)),
    "mtmd_input_chunks_get": (c_void_p, (c_void_p, c_size_t)),
    "mtmd_input_chunks_free": (None, (c_void_p,)),
    "mtmd_input_chunk_get_type": (c_int32, (c_void_p,)),
    "mtmd_input_chunk_get_tokens_text": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "mtmd_input_chunk_get_tokens_image": (c_void_p, (c_void_p,)),
    "mtmd_input_chunk_get_n_tokens": (c_size_t, (c_void_p,)),
    "mtmd_input_chunk_get_n_pos": (c_int32, (c_void_p,)),
    "mtmd_image_tokens_get_decoder_pos": (DecoderPosition, (c_void_p, c_int32, c_size_t)),
    "mtmd_tokenize": (c_int32, (c_void_p, c_void_p, POINTER(InputText), POINTER(c_void_p), c_size_t)),
    "mtmd_encode_chunk": (c_int32, (c_void_p, c_void_p)),
    "mtmd_get_output_embd": (POINTER(c_float), (c_void_p,)),
}

_lock = threading.Lock()
_libraries: dict[Path, Any] = {}


def load_libmtmd() -> Any:
    """The library, with its functions declared; loaded once.

    Raises:
        ConfigError: there is none, or not one that is known here.
        MissingDependencyError: the package that has it is not installed.
    """
    path = libllama.find_libllama()
    with _lock:
        if path not in _libraries:
            _libraries[path] = _load(path)
        return _libraries[path]


def _load(path: Path) -> Any:
    library = libllama.load_libllama()
    if not hasattr(library, "mtmd_init_from_file"):
        library = _load_beside(path)
    for name, (returned, taken) in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as exc:
            raise ConfigError(libllama.unknown(path, f"its libmtmd has no function {name}")) from exc
        function.restype, function.argtypes = returned, taken
    libllama.check_defaults(path, libllama.load_libllama(), library.mtmd_context_params_default(), DEFAULTS)
    library.mtmd_log_set(libllama.log, None)
    return library


def _load_beside(path: Path) -> Any:
    """The library that stands in a file of its own."""
    found = [path.parent / name for name in FILES if (path.parent / name).is_file()]
    if not found:
        raise ConfigError(
            f"{path} has no libmtmd in it or beside it, which looks at pictures for GGUF models. Name a build with "
            f"{FILES[0]} beside it in {libllama.VARIABLE}, or load the model with mmproj=False."
        )
    try:
        return ctypes.CDLL(str(found[0]))
    except OSError as exc:
        raise ConfigError(f"{found[0]} can't be loaded as a library: {exc}") from exc
