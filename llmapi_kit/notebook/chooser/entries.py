"""What can be chosen: the kit's own models, those of the table, of the hub's cache, and files nearby; and their needs.

Reads names, sizes and configurations on this machine; asks the hub only for a name that somebody typed. Loads nothing.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmapi_kit.checkpoints.cache_size import BYTES
from llmapi_kit.checkpoints.hub_cache import CachedModel, ModelCache, cached_models
from llmapi_kit.checkpoints.known_models import KnownModel, known_models
from llmapi_kit.checkpoints.needs import WHOLE, Needs, needs_of
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.config import Settings, load_settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.notebook.chooser.machine import ChooserMachine

MAX_NEARBY = 20
SKIPPED = ("node_modules", "venv", "site-packages")
SHAPE = ("num_hidden_layers", "num_attention_heads", "hidden_size")
# On a CPU larger ones write more slowly than one reads
MAX_CPU_PARAMETERS = 1e9


@dataclass(frozen=True)
class Entry:
    """A model that can be chosen.

    Attributes:
        name: for `kit.load`.
        where: ``kit``, ``hub`` or ``files``.
        num_parameters: 0 if unknown.
        shape: a configuration's numbers; None if unknown.
        stored: the number format of its weights.
        size_bytes: of the weights, on the hub or here.
        here_bytes: what is on this machine.
        is_complete: whether nothing needs to be downloaded.
        licence: empty if unknown.
        is_gated: whether a token is needed.
        is_checked: whether its own page has said so of both.
        published: year and month; empty if unknown.
        good_for: in a few words.
        rank: see `llmapi_kit.checkpoints.known_models.KnownModel`.
    """

    name: str
    where: str
    num_parameters: int = 0
    shape: Any = None
    stored: str = "bfloat16"
    size_bytes: int = 0
    here_bytes: int = 0
    is_complete: bool = False
    licence: str = ""
    is_gated: bool = False
    is_checked: bool = True
    published: str = ""
    good_for: str = ""
    rank: int = 0

    @property
    def missing_bytes(self) -> int:
        """What is to be downloaded."""
        return 0 if self.is_complete else max(0, self.size_bytes - self.here_bytes)

    def needs(self, precision: str, machine: ChooserMachine, settings: Settings) -> Needs | None:
        """What it takes in one number format; None if its shape is not known."""
        if self.shape is None:
            return None
        return needs_of(self.num_parameters, self.shape, precision, machine.device, settings, self.stored)


def all_entries(folder: Path | None = None) -> list[Entry]:
    """All that can be chosen without asking anybody: what is here first, then the table.

    Args:
        folder: whose files are nearby; the current one unless given.
    """
    cached = {each.name: each for each in cached_models()}
    known = [_of_table(row, cached.get(row.name)) for row in known_models()]
    names = {each.name for each in known}
    others = [_of_cache(each) for each in cached.values() if each.name not in names]
    return [_pocket(), *nearby(folder or Path()), *others, *known]


def nearby(folder: Path) -> list[Entry]:
    """Model folders and GGUF files in a folder and two levels below."""
    found: list[Entry] = []
    for path in _walk(folder, 2):
        if len(found) >= MAX_NEARBY:
            break
        entry = _of_path(path, folder)
        if entry is not None:
            found.append(entry)
    return found


def of_hub(name: str) -> Entry:
    """A model that somebody typed, as the hub tells of it: its size, and its shape from its configuration.

    Raises:
        ModelError: it can't be had; the message says why and what to do.
    """
    from llmapi_kit.checkpoints.download import Download
    from llmapi_kit.checkpoints.hub import check_hub_model

    model = check_hub_model(name)
    config = [file for file in model.files if file.name == "config.json"]
    path = Download(model, load_settings().download_stall_s).fetch(config) / "config.json"
    entry = _measured(Entry(name, "hub", licence=model.licence, is_gated=model.is_gated), path, model.weights_bytes)
    cache = ModelCache(name)
    return replace(entry, here_bytes=min(cache.size_bytes, entry.size_bytes), is_complete=cache.is_complete)


def recommended(entries: list[Entry], machine: ChooserMachine, settings: Settings) -> tuple[Entry, str] | None:
    """The best model of the table that fits here, and its number format; None if none does.

    One that is whole in its own format is better than a larger one in fewer bits, which lose something; and one with
    room for a request of the usual length better than any that is tight.
    """
    limit = MAX_CPU_PARAMETERS if machine.device == "cpu" else float("inf")
    ranked = sorted((each for each in entries if each.rank), key=lambda each: each.rank, reverse=True)
    possible = [
        each for each in ranked if each.num_parameters <= limit and each.missing_bytes <= machine.free_disk_bytes
    ]
    every = machine.precisions("bfloat16")
    whole = tuple(precision for precision in every if precision in WHOLE)
    orders = (whole, *((precision,) for precision in every if precision not in WHOLE))
    for verdict, precisions, entry in itertools.product(("fits", "tight"), orders, possible):
        for precision in precisions:
            needs = entry.needs(precision, machine, settings)
            if needs is not None and needs.verdict == verdict:
                return entry, precision
    return None


def best_precision(entry: Entry, machine: ChooserMachine, settings: Settings) -> str:
    """The number format that a model fits in: the device's own where that will do."""
    found = {precision: entry.needs(precision, machine, settings) for precision in machine.precisions(entry.stored)}
    for verdict in ("fits", "tight"):
        for precision, needs in found.items():
            if needs is not None and needs.verdict == verdict:
                return precision
    return machine.precisions(entry.stored)[0]


def _pocket() -> Entry:
    weights = (POCKET_DIR / "model.safetensors").stat().st_size
    entry = Entry("pocket", "kit", here_bytes=weights, is_complete=True, licence="Apache-2.0")
    good_for = "trying out the kit without a download; it can hardly talk"
    return replace(_measured(entry, POCKET_DIR / "config.json", weights), good_for=good_for)


def _of_table(row: KnownModel, cached: CachedModel | None) -> Entry:
    return Entry(
        name=row.name,
        where="hub",
        num_parameters=row.num_parameters,
        shape=row.shape,
        size_bytes=row.download_bytes,
        here_bytes=cached.size_bytes if cached else 0,
        is_complete=cached is not None and cached.is_complete,
        licence=row.licence,
        is_gated=row.is_gated,
        is_checked=row.is_checked,
        published=row.published,
        good_for=row.good_for,
        rank=row.rank,
    )


def _of_cache(cached: CachedModel) -> Entry:
    entry = Entry(cached.name, "hub", here_bytes=cached.size_bytes, is_complete=cached.is_complete)
    folder = ModelCache(cached.name).newest
    return _measured(entry, folder / "config.json", cached.size_bytes) if folder is not None else entry


def _of_path(path: Path, root: Path) -> Entry | None:
    name = os.path.join(".", os.path.relpath(path, root))
    if path.suffix == ".gguf":
        size = path.stat().st_size
        return Entry(name, "files", size_bytes=size, here_bytes=size, is_complete=True, good_for=_GGUF)
    config = path / "config.json"
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if not weights or not config.is_file():
        return None
    return _measured(Entry(name, "files", here_bytes=weights, is_complete=True), config, weights)


_GGUF = "a GGUF file: it takes about its size in memory, and what its context needs is told when it is loaded"


def _measured(entry: Entry, config: Path, weights_bytes: int) -> Entry:
    """An entry with the sizes and the shape that a configuration tells; without those if it can't be read."""
    entry = replace(entry, size_bytes=weights_bytes)
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        values = values.get("text_config") or values
        shape = _shape(values)
    except (OSError, ValueError, AttributeError, LlmApiKitError):
        return entry
    stored = str(values.get("dtype") or values.get("torch_dtype") or "float32").removeprefix("torch.")
    count = weights_bytes // BYTES.get(stored, 4) if shape else 0
    return replace(entry, shape=shape, stored=stored, num_parameters=count)


def _shape(values: Mapping[str, Any]) -> Any:
    """The numbers that memory depends on; None where one is missing or not a number."""
    if not all(isinstance(values.get(name), int) and values[name] > 0 for name in SHAPE):
        return None
    context = values.get("max_position_embeddings")
    rest = {"max_position_embeddings": context if isinstance(context, int) else 0}
    return SimpleNamespace(**{**values, **rest})


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Folders and GGUF files, the folder itself first; hidden ones and those of programs left out."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return
    for child in children:
        if child.name.startswith(".") or child.name in SKIPPED:
            continue
        if child.suffix == ".gguf" and child.is_file():
            yield child
        elif child.is_dir() and not child.is_symlink():
            yield child
            if depth > 1:
                yield from _walk(child, depth - 1)
