"""A look at the Hugging Face hub before anything is downloaded: is the model there, is it safe, does it fit.

One request with a time limit, so a wrong name or a missing network is told within seconds; the loaders of transformers
would retry each file for most of a minute. Knows nothing of loading.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from llmapi_kit.errors import ModelLoadError, ModelNotFoundError, ModelTooLargeError, UnsupportedModelError
from llmapi_kit.models.spec import HUB_ID

TIMEOUT_S = 10
# What a tokenizer may consist of; patterns of file names
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja")
# What has to stay free on the disk after a download
DISK_RESERVE_BYTES = 1_000_000_000


def check_hub_model(name: str, free_memory_bytes: int) -> None:
    """Raise unless a hub model can be downloaded and may fit; one that is downloaded already passes.

    Args:
        name: ``owner/name``.
        free_memory_bytes: of the device it is to be loaded on.

    Raises:
        ModelNotFoundError: there is no such model, it needs a token, or the hub can't be reached.
        UnsupportedModelError: it has no safetensors weights.
        ModelLoadError: disk or memory are too small for it; the message has the numbers.
    """
    if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
        return
    weights_bytes = _weights_bytes(name)
    folder = _existing(Path(constants.HF_HUB_CACHE))
    free_disk = shutil.disk_usage(folder).free
    if weights_bytes + DISK_RESERVE_BYTES > free_disk:
        raise ModelLoadError(
            f"{name} is a download of {weights_bytes / 2**30:,.1f} GiB, and the disk of {folder} has "
            f"{free_disk / 2**30:,.1f} GiB free. Free some, or set HF_HOME to a folder on a larger disk."
        )
    if weights_bytes > free_memory_bytes:
        raise ModelTooLargeError(
            f"{name} has {weights_bytes / 2**30:,.1f} GiB of weights, and {free_memory_bytes / 2**30:,.1f} GiB of "
            "memory are free. Choose a smaller or a quantised model."
        )


def cached_folder(name: str) -> Path | None:
    """Where a hub model is on this machine; None for one that is not downloaded."""
    config = huggingface_hub.try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _weights_bytes(name: str) -> int:
    """Size of the model's safetensors files, from one request to the hub."""
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    hint = "'pocket' needs no download."
    try:
        info = api.model_info(name, files_metadata=True, timeout=TIMEOUT_S)
    except GatedRepoError as exc:
        raise ModelNotFoundError(
            f"{name} is gated: accept its terms on the hub and set HF_TOKEN in the environment. {hint}"
        ) from exc
    except RepositoryNotFoundError as exc:
        token = "" if os.environ.get("HF_TOKEN") else " A private model needs HF_TOKEN in the environment."
        raise ModelNotFoundError(f"The Hugging Face hub has no model {name!r}. Check the name.{token} {hint}") from exc
    except Exception as exc:  # which HTTP library's errors come out depends on the version of huggingface_hub
        raise ModelNotFoundError(
            f"{name} is not on this machine, and the Hugging Face hub can't be reached: "
            f"{str(exc).splitlines()[0] if str(exc) else type(exc).__name__}. Check the network. {hint}"
        ) from exc
    if "adapter_config.json" in [
        file.rfilename for file in info.siblings or ()
    ]:  # transformers would load it by itself
        raise UnsupportedModelError(f"{name} is a LoRA adapter: load its base model and pass lora={name!r}.")
    sizes = [file.size or 0 for file in info.siblings or () if file.rfilename.endswith(".safetensors")]
    if not sizes:
        raise UnsupportedModelError(f"{name} has no safetensors weights; pickle weights can run code when loaded.")
    return sum(sizes)


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def find_folder(name: str, what: str, files: tuple[str, ...]) -> Path:
    """The folder of something that comes beside a model: a folder as it is, or downloaded from the hub.

    Args:
        name: a folder, or ``owner/name``.
        what: it is, for messages.
        files: to download; patterns of file names.

    Raises:
        ModelNotFoundError: there is no such thing, or the hub can't be reached.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path.resolve()
    if not HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"There is no {what} {name!r}: it must be a folder, or a hub name like 'owner/name'.")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files), etag_timeout=TIMEOUT_S))
    except Exception as exc:  # as above
        raise ModelNotFoundError(
            f"The {what} {name} is no folder here, and can't be had from the Hugging Face hub: "
            f"{str(exc).splitlines()[0] if str(exc) else type(exc).__name__}"
        ) from exc
