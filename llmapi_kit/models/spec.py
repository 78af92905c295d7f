"""What a model's name means: the shipped model, the mock, a folder, or a repository on the hub.

Knows nothing of torch or of loading; looks at names and at the file system only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmapi_kit.errors import ModelNotFoundError, UnsupportedModelError

POCKET_DIR = Path(__file__).parent / "pocket"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A name, understood.

    Attributes:
        name: as the user wrote it.
        id: what clients pass as ``model``.
        kind: who loads it.
        path: folder of the files; None for the mock and for hub models.
    """

    name: str
    id: str
    kind: Literal["mock", "folder", "hub"]
    path: Path | None = None


def parse_spec(name: str) -> ModelSpec:
    """Understand a model's name.

    Args:
        name: ``pocket``, ``mock``, a folder with a model in it, or ``owner/name`` of the Hugging Face hub.

    Raises:
        ModelNotFoundError: it is none of these.
        UnsupportedModelError: it is something this version can't serve.
    """
    if name == "pocket":
        return ModelSpec(name, "pocket", "folder", POCKET_DIR)
    if name == "mock":
        return ModelSpec(name, "mock", "mock")
    path = Path(name).expanduser()
    if name and path.is_dir():
        _check_folder(path)
        return ModelSpec(name, path.resolve().name, "folder", path.resolve())
    if path.suffix == ".gguf":
        raise UnsupportedModelError(f"{name}: GGUF files are not supported yet. Use the model's safetensors version.")
    if re.match(r"[a-z]+:", name):
        raise UnsupportedModelError(f"{name}: upstream providers are not supported yet. Load a local model.")
    if name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no model {name!r}. Use 'pocket' (ships with the kit), 'mock', a folder with config.json and "
            "*.safetensors, or a hub name such as 'Qwen/Qwen3-0.6B'."
        )
    return ModelSpec(name, name, "hub")


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{path} has no config.json, so it is not a Hugging Face model folder.")
    if any(path.glob("*.safetensors")):
        return
    pickles = [file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise UnsupportedModelError(
            f"{path} has only pickle weights ({pickles[0]}), which can run code when loaded. Convert them to "
            "safetensors first: AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder)."
        )
    raise ModelNotFoundError(f"{path} has no *.safetensors weights.")
