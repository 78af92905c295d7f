"""GGUF files of the hub: which of a repository's files a name means, and where it is once it was downloaded.

A repository has a model in many number formats, often in several parts. A name says which: a file, a pattern, or the
format alone. Blocking; for a worker thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from llmapi_kit.checkpoints.download import Download
from llmapi_kit.checkpoints.gguf_file import PART
from llmapi_kit.checkpoints.hub import look_up
from llmapi_kit.checkpoints.hub_cache import ModelCache
from llmapi_kit.checkpoints.mmproj import is_mmproj, usual_first
from llmapi_kit.checkpoints.spec import GgufName
from llmapi_kit.errors import ModelNotFoundError
from llmapi_kit.progress import report

USUAL = "Q4_K_M"  # where nothing is said, as for llama.cpp's own -hf
MAX_LISTED = 12


def download_gguf(name: GgufName, stall_s: float, *, has_mmproj: bool = True) -> Path:
    """A GGUF file of the hub, whole: from the cache, else downloaded. Of one in several parts, the first.

    Args:
        name: of the file.
        stall_s: how long the hub may be silent.
        has_mmproj: whether the file for pictures is fetched with it, where the repository has one.

    Raises:
        ModelNotFoundError: there is no such model or file, several are meant, or the hub can't be reached.
        ModelLoadError: the disk is too small, or the download failed; the message has the numbers.
    """
    cached = cached_gguf(name)
    if cached is not None:
        return cached
    report(f"asking the hub for {name.repository}")
    model = look_up(name.repository)
    chosen = choose([file.name for file in model.files], name)
    mmproj = _mmproj_beside(chosen[0], [file.name for file in model.files]) if has_mmproj else ()
    files = [file for file in model.files if file.name in {*chosen, *mmproj}]
    download = Download(model, stall_s)
    download.check_disk(files)
    folder = download.fetch(files)
    download.finish()
    return folder / chosen[0]


def cached_gguf(name: GgufName) -> Path | None:
    """The same where it is on this machine already; None where it has to be downloaded."""
    folder = ModelCache(name.repository).newest
    if folder is None:
        return None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.exists()]
    try:
        return folder / choose(names, name)[0]
    except ModelNotFoundError:
        return None


def choose(names: Iterable[str], wanted: GgufName) -> Sequence[str]:
    """The files of the model that is meant, all of its parts in their order.

    Args:
        names: of all files of the repository.
        wanted: what was asked for.

    Raises:
        ModelNotFoundError: none is meant, or several are; the message lists those that there are.
    """
    models = _models(names)
    if not models:
        raise ModelNotFoundError(f"{wanted.repository} has no GGUF files on the Hugging Face hub.")
    found = [parts for parts in models if any(_is_meant(part, wanted.file) for part in parts)]
    if not wanted.file:
        usual = [parts for parts in models if _is_meant(parts[0], USUAL)]
        found = usual or (models if len(models) == 1 else [])
    if len(found) != 1:
        shown = ", ".join(parts[0] for parts in (found or models)[:MAX_LISTED])
        what = "names several of the files" if found else "names none of the files"
        raise ModelNotFoundError(f"{wanted.text} {what} of {wanted.repository}: name one of {shown}.")
    return found[0]


def _mmproj_beside(model: str, names: Iterable[str]) -> list[str]:
    """The usual mmproj file in a model's folder of the repository, in a list; empty where there is none."""
    folder = PurePosixPath(model).parent
    return [str(folder / name) for name in usual_first(_names_in(folder, names))[:1]]


def _names_in(folder: PurePosixPath, names: Iterable[str]) -> list[str]:
    return [PurePosixPath(name).name for name in names if PurePosixPath(name).parent == folder]


def _models(names: Iterable[str]) -> list[list[str]]:
    """Files by the model they belong to; image projectors, which come beside them, are left out."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        file = PurePosixPath(name)
        if file.suffix != ".gguf" or is_mmproj(file.name):
            continue
        part = PART.fullmatch(file.name)
        groups.setdefault(str(file.parent / part["name"]) if part else name, []).append(name)
    return [parts for parts in groups.values() if _is_whole(parts)]


def _is_whole(parts: Sequence[str]) -> bool:
    """Whether no part of a model is missing."""
    part = PART.fullmatch(PurePosixPath(parts[0]).name)
    return part is None or int(part["count"]) == len(parts)


def _is_meant(name: str, wanted: str) -> bool:
    """Whether a file is meant: by its name, by a pattern, or by the number format in its name."""
    if not wanted or name == wanted:
        return bool(wanted)
    lower, pattern = name.lower(), wanted.lower()
    if any(char in pattern for char in "*?["):
        return fnmatch(lower, pattern) or fnmatch(PurePosixPath(lower).name, pattern)
    return re.search(rf"(?<![a-z0-9]){re.escape(pattern)}(?![a-z0-9_])", lower) is not None
