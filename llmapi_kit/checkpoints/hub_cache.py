"""The Hugging Face hub's cache on this machine: which models are in it, whole or in part, and where a file belongs.

The layout is huggingface_hub's own, so that other programs find what the kit downloads, and the kit what they did.
Reads and names files; downloads nothing, and works where huggingface_hub is not installed.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache for the layout.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from llmapi_kit.checkpoints.model_files import CONFIG, VOCABULARY_FILES, weight_files
from llmapi_kit.errors import ModelError

PREFIX, SEPARATOR = "models--", "--"
REVISION = "main"
PARTIAL = ".incomplete"
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the hub that is on this machine.

    Attributes:
        name: ``owner/name``.
        size_bytes: of all its files, also of those that are there in part.
        is_complete: whether it can be loaded without the hub.
    """

    name: str
    size_bytes: int
    is_complete: bool


class ModelCache:
    """Where one model of the hub is, or will be.

    Args:
        name: ``owner/name``.
        revision: a branch, a tag or a commit.

    Attributes:
        folder: all of it.
        blobs: contents, named by their digests.
        lock_folder: of locks that huggingface_hub takes, too.
    """

    def __init__(self, name: str, revision: str = REVISION) -> None:
        self.name = name
        self._revision = revision
        root = cache_folder()
        self.folder = root / (PREFIX + name.replace("/", SEPARATOR))
        self.blobs = self.folder / "blobs"
        self.lock_folder = root / ".locks" / self.folder.name

    def snapshot(self, commit: str) -> Path:
        """The files of one version, by their names."""
        return self.folder / "snapshots" / commit

    @property
    def newest(self) -> Path | None:
        """The files of the version that was downloaded last, whole or not; None where there is none."""
        try:
            commit = (self.folder / "refs" / self._revision).read_text(encoding="utf-8").strip()
        except OSError:
            commit = self._revision if COMMIT.fullmatch(self._revision) else ""
        path = self.snapshot(commit)
        return path if commit and path.is_dir() else None

    @property
    def is_complete(self) -> bool:
        """Whether the newest version can be loaded."""
        path = self.newest
        return path is not None and is_loadable(path)

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return sum(file.stat().st_size for file in _files(self.blobs))

    def link(self, commit: str, name: str, digest: str) -> None:
        """Give a content its name in one version; a copy where there are no symbolic links."""
        path = self.snapshot(commit) / name
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link that leads nowhere
        target = self.blobs / digest
        try:
            path.symlink_to(os.path.relpath(target, path.parent))
        except OSError:
            shutil.copyfile(target, path)

    def set_newest(self, commit: str) -> None:
        """Note which version is the newest of its branch; a commit has no other."""
        if commit == self._revision:
            return
        path = self.folder / "refs" / self._revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")


def cache_folder() -> Path:
    """Where the hub's models are; it need not be there yet."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return Path.home() / ".cache" / "huggingface" / "hub"
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def cached_folder(name: str, revision: str | None = None, subfolder: str = "") -> Path | None:
    """The files of a hub model that can be loaded without the hub; None for any other."""
    path = ModelCache(name, revision or REVISION).newest
    path = path / subfolder if path is not None else None
    return path if path is not None and is_loadable(path) else None


def cached_models() -> list[CachedModel]:
    """The models in the cache that have safetensors weights, or are to have them, by name."""
    found = []
    for name in cached_names():
        cache = ModelCache(name)
        is_partial = any(file.name.endswith(PARTIAL) for file in _files(cache.blobs))
        path = cache.newest
        if is_partial or (path is not None and any(path.glob("*.safetensors"))):
            found.append(CachedModel(name, cache.size_bytes, cache.is_complete))
    return found


def cached_names() -> list[str]:
    """The names of all models in the cache."""
    try:
        folders = sorted(path.name for path in cache_folder().iterdir() if path.name.startswith(PREFIX))
    except OSError:
        return []
    return [folder.removeprefix(PREFIX).replace(SEPARATOR, "/", 1) for folder in folders]


def is_loadable(folder: Path) -> bool:
    """Whether configuration, all weights and a tokenizer are there; not whether they are whole."""
    if not folder.is_dir():
        return False
    try:
        weights = weight_files(folder)
    except ModelError:
        return False
    names = [path.name for path in folder.iterdir() if path.exists()]
    has_tokenizer = any(fnmatch(name, pattern) for name in names for pattern in VOCABULARY_FILES)
    return has_tokenizer and CONFIG in names and all(path.exists() for path in weights)


def free_disk_bytes() -> int:
    """What is free on the disk of the cache."""
    path = cache_folder()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_file())
    except OSError:
        return
