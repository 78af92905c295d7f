"""Give memory back after a model was loaded or closed, the GPU's above all.

Knows nothing of models. Runs in the thread that loads or closes one; takes some hundredths of a second.
"""

from __future__ import annotations

import gc
import sys

from llmapi_kit.checkpoints.heap import trim_heap

LAST_ERROR = ("last_type", "last_value", "last_traceback", "last_exc")


def release_memory() -> int:
    """Let go of what kept tracebacks and garbage still hold, and hand unused GPU memory back to the system.

    A traceback keeps the local variables of every frame it passed, so tensors outlive `del`: those that Python and
    IPython keep for the debugger are dropped. What a notebook keeps in `_` and `Out` may stay: a closed model has no
    weights.

    Returns:
        Bytes given back on GPUs; 0 without one.

    Source: https://github.com/pytorch/pytorch/issues/27600
    """
    for name in LAST_ERROR:
        if hasattr(sys, name):
            delattr(sys, name)
    _forget_tracebacks_of_ipython()
    gc.collect()
    trim_heap()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    devices = range(torch.cuda.device_count())
    before: int = sum(torch.cuda.memory_reserved(device) for device in devices)
    torch.cuda.empty_cache()
    after: int = sum(torch.cuda.memory_reserved(device) for device in devices)
    return before - after


def _forget_tracebacks_of_ipython() -> None:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    for name in ("InteractiveTB", "SyntaxTB"):
        formatter = getattr(shell, name, None)
        if formatter is not None and getattr(formatter, "tb", None) is not None:
            formatter.tb = None
