"""Loads a GGUF file in a process of its own first, as llama.cpp ends the process where a file contradicts itself.

It asserts what a file's numbers and tables have to be, hundreds of things, and aborts: in a notebook, with the kernel
and the user's work. So whatever a load does, and a step of two tokens, is done once where nothing is lost. Weights are
mapped, so that the load itself finds them in memory. Knows nothing of what is wrong with files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.child_environment import child_environment
from llmapi_kit.errors import ModelLoadError
from llmapi_kit.runners.libllama import VARIABLE

MAX_WALL_S = 300.0
# Scripts, spaces, line ends, an emoji, markers
SAMPLE = " Hello, world 42\n\n  \u4f60\u597d \u00e9\U0001f642 <s><|im_end|></s>\t"


def try_to_load(
    path: Path, *, lora: Sequence[Path] = (), options: Mapping[str, Any] | None = None, has_weights: bool = True
) -> None:
    """Raise `ModelLoadError` where llama.cpp can't be trusted with a file; blocks.

    What it refuses in good order passes here: it will say so again.

    Args:
        path: of the file; of a model in several, the first.
        lora: adapters that are to go on it.
        options: of `llmapi_kit.runners.llama_context.ContextOptions`.
        has_weights: whether it is to compute, and not to read texts alone.
    """
    question = json.dumps(
        {
            "path": str(path),
            "lora": [str(each) for each in lora],
            "options": dict(options or {}),
            "has_weights": has_weights,
        }
    )
    environment = child_environment(VARIABLE, GGML_NO_BACKTRACE="1")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            input=question,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_WALL_S,
            env=environment,
            start_new_session=True,  # or interrupting a cell would end it as well, and look like the file's fault
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelLoadError(f"llama.cpp did not get {path.name} ready to load in {MAX_WALL_S:.0f} s.") from exc
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if "ASSERT" in line or "error" in line.lower()]
        why = f": {lines[-1].strip()[-200:]}" if lines else f", with exit code {ended.returncode}"
        raise ModelLoadError(
            f"llama.cpp gives up on {path.name}{why}. The file contradicts itself, or is of a kind that this version "
            "of llama.cpp does not know. Download it again, or take another."
        )


def main() -> None:
    """Load what standard input names, and compute two tokens. An exit code other than 0 is the library's doing."""
    from llmapi_kit.errors import LlmApiKitError
    from llmapi_kit.runners.llama_context import ContextOptions, LlamaContext
    from llmapi_kit.runners.llama_model import LlamaModel
    from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary

    leave_no_core()
    asked = json.loads(sys.stdin.read())
    path, adapters = Path(asked["path"]), [Path(each) for each in asked["lora"]]
    try:
        read_texts(LlamaVocabulary(path))
        if not asked["has_weights"]:
            os._exit(0)
        model = LlamaModel(path, n_gpu_layers=0, is_repacked=False, lora=adapters)
        options = ContextOptions(**asked["options"])
        context = LlamaContext(model, num_slots=2, max_length=64, num_outputs=64, num_threads=1, options=options)
        tokens = np.array([0, model.vocab_size - 1], np.int32)
        model.library.llama_decode(context.handle, model.library.llama_batch_get_one(tokens.ctypes.data, len(tokens)))
    except LlmApiKitError:
        return
    finally:
        sys.stdout.flush()
    os._exit(0)  # what is left to free goes with the process


def read_texts(vocabulary: Any) -> None:
    """Tokenize a text, and ask for every token."""
    vocabulary.detokenize(vocabulary.tokenize(SAMPLE, add_special_tokens=True))
    for token_id in range(vocabulary.size):
        vocabulary.piece(token_id)


def leave_no_core() -> None:
    """An abort of this process leaves no image of its memory on the disk."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass
