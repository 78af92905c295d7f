"""The structures of `model.h` and the functions of `decoder.c`, as ctypes has them.

Knows types and their order, nothing of what they mean: model.h says that.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar

POINTER, SIZE, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Matrix(ctypes.Structure):
    """`Matrix` of panels.h."""

    _fields_: ClassVar = [("weights", POINTER), ("bits", SIZE)]


class Expert(ctypes.Structure):
    """`Expert` of model.h."""

    MATRICES = ("gate_up", "down")
    POINTERS = ("gate_up_bias", "down_bias")
    _fields_: ClassVar = [*((name, Matrix) for name in MATRICES), *((name, POINTER) for name in POINTERS)]


class Layer(ctypes.Structure):
    """`Layer` of model.h."""

    MATRICES = ("qkv", "output", "gate_up", "down")
    POINTERS = (
        *("before_attention", "after_attention", "before_feed_forward", "after_feed_forward"),
        *("query_norm", "key_norm", "qkv_bias", "output_bias", "gate_up_bias", "down_bias"),
        *("sinks", "cosines", "sines", "router", "router_bias", "experts"),
    )
    _fields_: ClassVar = [
        *((name, Matrix) for name in MATRICES),
        *((name, POINTER) for name in POINTERS),
        ("inner", SIZE),
        ("window", SIZE),
        ("scaling", FLOAT),
    ]


class Model(ctypes.Structure):
    """`Model` of model.h."""

    SIZES = (
        *("num_layers", "hidden", "inner", "heads", "kv_heads", "head_dim", "vocab", "max_length"),
        *("rotated", "activation", "norms_all_heads"),
        *("num_experts", "experts_per_token", "expert_inner", "renormalises", "has_shared_gate"),
    )
    FLOATS = (
        *("epsilon", "embedding_scale", "residual_multiplier", "attention_cap"),
        *("logit_scale", "logit_cap", "swiglu_alpha", "swiglu_limit"),
    )
    MATRICES = ("embedding", "head")
    POINTERS = ("norm", "layers", "memory")
    _fields_: ClassVar = [
        *((name, SIZE) for name in SIZES),
        *((name, FLOAT) for name in FLOATS),
        *((name, Matrix) for name in MATRICES),
        *((name, POINTER) for name in POINTERS),
    ]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the functions' types."""
    model = ctypes.POINTER(Model)
    for name, arguments in {
        "panel_width": (),
        "vector_width": (),
        "packed_size": (SIZE, SIZE, SIZE),
        "slot_size": (model,),
        "prefix_size": (model, SIZE),
        "work_size": (model, SIZE, SIZE),
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, SIZE
    library.step.argtypes = (
        *(model, POINTER, SIZE),
        *(SIZE, POINTER, POINTER, POINTER, POINTER),
        *(POINTER, POINTER, POINTER, SIZE),
        *(SIZE, POINTER, POINTER, POINTER, POINTER),
    )
    library.pack.argtypes = (POINTER, SIZE, POINTER, POINTER, *(SIZE, SIZE, SIZE), POINTER)
    library.team_start.argtypes, library.team_start.restype = (SIZE,), POINTER
    library.unpack.argtypes = (SIZE, POINTER, *(SIZE, SIZE, SIZE), POINTER)
    for function in (library.step, library.pack, library.unpack, library.team_stop):
        function.restype = None
    library.team_stop.argtypes = (POINTER,)
    return library
