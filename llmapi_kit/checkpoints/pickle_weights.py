"""Converts weights in pickle files (`.bin`, `.pt`) to safetensors, in a process of its own; only when asked to.

A pickle can run code as it is read. torch's reader for weights takes nothing but tensors; should a file get past it all
the same, the process that reads it has no tokens in its environment. Everything else in the kit refuses such files.
Run ``python -m llmapi_kit.checkpoints.pickle_weights FOLDER``, or call `convert`.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.spec import PICKLE_SUFFIXES
from llmapi_kit.child_environment import child_environment
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, ModelNotFoundError

MODULE = "llmapi_kit.checkpoints.pickle_weights"  # by this name also where it is run as a script
# Beside weights stand states of the training, which are not weights
NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def convert(folder: str | os.PathLike[str]) -> list[Path]:
    """Write a model's weights as safetensors beside its pickle files, which stay; blocks.

    Args:
        folder: of the model.

    Returns:
        The files written.

    Raises:
        ModelNotFoundError: the folder has no pickle files.
        ModelLoadError: one has something else than tensors in it, is damaged, or can't be written out.
    """
    path = Path(folder).expanduser()
    files = pickle_files(path)
    environment = child_environment("HOME", "TMPDIR")
    ended = subprocess.run(
        [sys.executable, "-c", f"from {MODULE} import convert_here; convert_here()"],
        input=json.dumps([os.fspath(file) for file in files]),
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    if ended.returncode:
        last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "it ended without a word")
        reason = last.strip().removeprefix("llmapi_kit.errors.ModelLoadError: ")
        raise ModelLoadError(f"The weights in {path} could not be converted: {reason[:500]}")
    return [Path(file) for file in json.loads(ended.stdout.splitlines()[-1])]


def pickle_files(folder: Path) -> list[Path]:
    """The pickle files with weights in a folder.

    Raises:
        ModelNotFoundError: there are none.
    """
    found = sorted(file for file in folder.glob("*") if file.suffix in PICKLE_SUFFIXES)
    files = [file for file in found if not file.name.startswith(NO_WEIGHTS)]
    if not files:
        raise ModelNotFoundError(f"{folder} has no weights in pickle files ({', '.join(PICKLE_SUFFIXES)}).")
    return files


def convert_here() -> None:
    """Convert the files that standard input names, in this process, and print what was written."""
    files = [Path(file) for file in json.loads(sys.stdin.read())]
    written, places = [], {}
    for number, file in enumerate(files, 1):
        name = "model" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}"
        target = file.with_name(f"{name}.safetensors")
        tensors = _read(file)
        _write(tensors, target)
        written.append(str(target))
        places.update(dict.fromkeys(tensors, target.name))
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": places}
        files[0].with_name("model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    sys.stdout.write(f"{json.dumps(written)}\n")


def _read(file: Path) -> dict[str, Any]:
    """The tensors of a file, each with memory of its own."""
    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        reason = str(exc).partition("WeightsUnpickler error: ")[2].partition("\n")[0].strip()
        raise ModelLoadError(
            f"{file.name} holds something else than tensors, which could run code as it is read. {reason}".strip()
        ) from exc
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise ModelLoadError(f"{file.name} holds something else than tensors by their names.")
    return {str(name): tensor.detach().clone().contiguous() for name, tensor in held.items()}


def _write(tensors: dict[str, Any], target: Path) -> None:
    """Write a file that is there whole or not at all."""
    from safetensors.torch import save_file

    part = target.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(target)


def main() -> None:
    """Convert the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(f"Usage: python -m {MODULE} FOLDER")
    try:
        for file in convert(sys.argv[1]):
            sys.stdout.write(f"{file}\n")
    except LlmApiKitError as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
