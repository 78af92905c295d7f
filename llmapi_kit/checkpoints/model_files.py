"""Is each file of a model folder what its name says: a look at the first bytes, before anything reads it in earnest.

A clone without Git LFS leaves pointers, a download through a browser or a proxy leaves web pages, and one that broke
off leaves half a file. The loaders would fail on these with errors of their own, or late. Reads heads and small files
only, never weights; knows nothing of architectures. Cheap, and free of torch.

Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md for pointers,
https://github.com/huggingface/safetensors#format for the head of weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ModelLoadError, ModelNotFoundError

ADAPTER_CONFIG = "adapter_config.json"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# What is read of a folder beside the weights; patterns of file names
MODEL_FILES = (CONFIG, "generation_config.json", INDEX)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("*.jinja", "merges.txt", "vocab.txt", "*.model", "*.tiktoken"),
)
# A tokenizer has its vocabulary in one of these
VOCABULARY_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json", "bpe.codes", "merges.txt")
HEAD_BYTES = 512
MAX_JSON_BYTES = 2_000_000  # of larger ones, which are vocabularies, only the two ends are looked at
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
SIZES = (
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 2)
    | dict.fromkeys(("I32", "U32", "F32"), 4)
    | dict.fromkeys(("I64", "U64", "F64"), 8)
)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What stands in place of a file: how it begins, and what it is then
STAND_INS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML page"),
    (b"pk\x03\x04", "a ZIP archive, as torch.save() writes"),
    (b"\x1f\x8b", "packed with gzip"),
)
AGAIN = "Download the file again."


def check_file(path: Path) -> bytes:
    """Raise unless a file can be read and has a content of its own; returns its first bytes.

    Raises:
        ModelLoadError: it is a folder, a broken link, unreadable, empty, a Git LFS pointer or a web page.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ModelLoadError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}; it must be a file.")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as exc:
        if path.is_symlink():
            raise ModelLoadError(f"{path} is a link to {path.readlink()}, which is not there. {AGAIN}") from exc
        raise ModelLoadError(f"{path} is not there. {AGAIN}") from exc
    except OSError as exc:
        raise ModelLoadError(f"{path} can't be read: {exc.strerror or exc}.") from exc
    if not head:
        raise ModelLoadError(f"{path} is empty: its download broke off. {AGAIN}")
    if head.startswith(LFS_POINTER):
        raise ModelLoadError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in {path.parent}, or download the "
            "file."
        )
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, what in STAND_INS:
        if begin.startswith(mark):
            raise ModelLoadError(f"{path} is {what}, not what its name says. {AGAIN}")
    return head


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file of a model.

    Raises:
        ModelLoadError: it can't be read, is damaged, or is not an object.
    """
    check_file(path)
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as exc:
        raise ModelLoadError(f"{path} can't be read: {exc.strerror or exc}.") from exc
    except UnicodeDecodeError as exc:
        raise ModelLoadError(f"{path} can't be read: it is not UTF-8 at byte {exc.start:,}. {AGAIN}") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelLoadError(f"{path} can't be read: it is not JSON ({exc}). {AGAIN}") from exc
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} can't be read: it holds a {type(value).__name__}, not a JSON object.")
    return value


def check_files(folder: Path, *, has_tokenizer: bool = True) -> None:
    """Raise unless the files of a model folder are what their names say, as far as that shows without reading them.

    Args:
        folder: with config.json and safetensors weights.
        has_tokenizer: whether its own tokenizer is asked for.

    Raises:
        ModelLoadError: a file is not; the message names it.
        ModelNotFoundError: weights or tokenizer are not there.
    """
    _check_each(folder, MODEL_FILES)
    for path in weight_files(folder):
        read_safetensors_head(path)
    if has_tokenizer:
        check_tokenizer_files(folder)


def check_tokenizer_files(folder: Path) -> None:
    """Raise unless a folder has a tokenizer, whose files are what their names say.

    Raises:
        ModelLoadError: a file is not; the message names it.
        ModelNotFoundError: there is none.
    """
    names = _check_each(folder, TOKENIZER_FILES)
    if not any(fnmatch(name, pattern) for name in names for pattern in VOCABULARY_FILES):
        raise ModelNotFoundError(
            f"{folder} has no tokenizer, such as tokenizer.json. Put its files there, or pass tokenizer=…: a folder or "
            "a hub name."
        )


def weight_files(folder: Path) -> list[Path]:
    """The weights that transformers loads from a folder: one file, or the shards that an index names.

    Raises:
        ModelNotFoundError: there are none under the names that are looked for.
        ModelLoadError: the index is damaged, or names a file that is not there.
    """
    if (folder / WEIGHTS).exists() or (folder / WEIGHTS).is_symlink():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        others = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        raise ModelNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}, only {others or 'other files'}.")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ModelLoadError(f"{folder / INDEX} has no weight_map from tensors to files. {AGAIN}")
    names = sorted(set(shards.values()))
    if outside := next((name for name in names if Path(name).name != name), None):
        raise ModelLoadError(f"{folder / INDEX} names {outside!r}, which is not a file of this folder.")
    missing = [name for name in names if not ((folder / name).exists() or (folder / name).is_symlink())]
    if missing:
        raise ModelLoadError(
            f"{folder} lacks {len(missing)} of {len(names)} files of weights that {INDEX} names, such as {missing[0]}. "
            "Download them."
        )
    return [folder / name for name in names]


def read_safetensors_head(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor in a safetensors file.

    Raises:
        ModelLoadError: it is not a safetensors file, damaged, or cut off.
    """
    head = check_file(path)
    try:
        size = path.stat().st_size
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or not 2 <= length <= MAX_HEADER_BYTES or head[8:9] != b"{":
            raise ModelLoadError(f"{path} is not a safetensors file: it begins with {head[:16]!r}. {AGAIN}")
        if 8 + length > size:
            raise _cut(path, 8 + length, size)
        with path.open("rb") as file:
            file.seek(8)
            entries = json.loads(file.read(length))
        shapes = dict(_tensors(entries))
        end = 8 + length + max((entries[name]["data_offsets"][1] for name in shapes), default=0)
    except OSError as exc:
        raise ModelLoadError(f"{path} can't be read: {exc.strerror or exc}.") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelLoadError(f"{path} is damaged: its header can't be read ({exc}). {AGAIN}") from exc
    if end > size:
        raise _cut(path, end, size)
    if end < size:
        raise ModelLoadError(f"{path} is damaged: it has {size:,} bytes, and its header tells of {end:,}. {AGAIN}")
    return shapes


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a folder.

    Raises:
        ModelError: weights are not there, or damaged.
    """
    return {name: shape for path in weight_files(folder) for name, shape in read_safetensors_head(path).items()}


def _cut(path: Path, wanted: int, size: int) -> ModelLoadError:
    return ModelLoadError(f"{path} is cut off: it has {size:,} of {wanted:,} bytes, so its download broke off. {AGAIN}")


def _tensors(entries: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each entry of a header, checked; `ValueError` says what is wrong."""
    if not isinstance(entries, Mapping):
        raise ValueError("it is not a JSON object")
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        values: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
        shape, place = _counts(values.get("shape")), _counts(values.get("data_offsets"))
        if shape is None or place is None or len(place) != 2 or place[0] > place[1]:
            raise ValueError(f"its entry for {name[:80]!r} is not valid")
        num_bytes = SIZES.get(str(values.get("dtype")))
        if num_bytes and math.prod(shape) * num_bytes != place[1] - place[0]:
            raise ValueError(f"its entry for {name[:80]!r} has another size than shape")
        yield name, shape


def _counts(value: Any) -> tuple[int, ...] | None:
    is_one = isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)
    return tuple(value) if is_one else None


def _check_json(path: Path) -> None:
    """Raise unless a file holds a JSON object, as far as that shows without parsing a vocabulary."""
    head = check_file(path)
    size = path.stat().st_size
    if size <= MAX_JSON_BYTES:
        read_json(path)
        return
    with path.open("rb") as file:
        file.seek(-HEAD_BYTES, 2)
        tail = file.read().rstrip()
    if not head.lstrip().startswith(b"{"):
        raise ModelLoadError(f"{path} can't be read: it holds no JSON object. {AGAIN}")
    if not tail.endswith(b"}"):
        raise ModelLoadError(f"{path} is cut off: it does not end as JSON does. {AGAIN}")


def _check_each(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Look at the files with these names; returns the names of all files."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as exc:
        raise ModelLoadError(f"{folder} can't be read: {exc.strerror or exc}.") from exc
    for name in names:
        if not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if name.endswith(".json"):
            _check_json(folder / name)
        else:
            check_file(folder / name)
    return names
