"""Makes the models that the benchmarks serve: the same weights for transformers and, as GGUF, for llama.cpp.

Nothing is downloaded. `pocket` has the shipped weights, the others random ones; all share the pocket model's
tokenizer and chat template. They read and say single Chinese characters, each a token whatever stands beside it: every
other token's row of the output projection is zero, and so is its logit, while the largest of the others is above. So
every contender makes as many tokens as it is asked for, each of them shows as text, and an answer that is sent back in
a conversation becomes the same tokens again (a word with a space before it does not, after a line end). Servers can't
tell; the arithmetic is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks.gguf_file import write_gguf
from benchmarks.quantize_gguf import quantize_gguf

POCKET = Path(__file__).resolve().parent.parent / "llmapi_kit" / "checkpoints" / "pocket"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SEED = 20260101
CONTEXT = 4096
FIRST, LAST = "\u4e00", "\u9fff"  # of the CJK unified ideographs

# Sizes of the shapes that are made up; the vocabulary is the pocket model's
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 688,
    },
    "qwen": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "7b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
    },
}
DTYPES = {"tiny": "float32", "pocket": "float32", "qwen": "bfloat16", "7b": "bfloat16"}
WITHOUT_GGUF = {"7b"}  # 14 GB more, and `benchmarks.gpu` has no use for it
# The GGUF file of another one, in another number format
QUANTISED = {"tiny-q8_0": ("tiny", "Q8_0"), "qwen-q4_k_m": ("qwen", "Q4_K_M")}
NAMES = (*DTYPES, *QUANTISED)


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model on disk.

    Attributes:
        name: what it is called here.
        folder: its Hugging Face files.
        gguf: the same weights for llama.cpp, float32 or float16; not there for `WITHOUT_GGUF`.
        dtype: what Hugging Face servers compute in, or the number format of a file that they can't read.
        words: a list of texts (JSON) that are a token each, to make prompts of.
        num_parameters: as counted.
    """

    name: str
    folder: Path
    gguf: Path
    dtype: str
    words: Path
    num_parameters: int

    @property
    def is_quantised(self) -> bool:
        """Whether there is a GGUF file only."""
        return self.name in QUANTISED

    @property
    def label(self) -> str:
        """Name and size, for people."""
        millions = self.num_parameters / 1e6
        size = f"{millions:.1f} M" if millions < 100 else f"{millions / 1000:.2f} B"
        return f"{self.name} ({size} parameters, {self.dtype})"


def default_work_folder() -> Path:
    """Where models and environments are kept between runs."""
    return Path(platformdirs.user_cache_dir("llmapi_kit", appauthor=False)) / "benchmarks"


def make_model(name: str, work: Path) -> BenchModel:
    """Make a model under `work`, or find the one that is there.

    Raises:
        ValueError: there is no such model.
    """
    if name not in NAMES:
        raise ValueError(f"There is no benchmark model {name!r}; there are {', '.join(NAMES)}.")
    if name in QUANTISED:
        return _quantised(name, work)
    folder = work / "models" / name
    stamp = folder / "stamp.json"
    recipe = _recipe(name)
    known = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if known.get("recipe") != recipe:
        print(f"Making the model {name} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        num_parameters = _write(name, folder)
        known = {"recipe": recipe, "num_parameters": num_parameters}
        stamp.write_text(json.dumps(known))
    return BenchModel(
        name, folder, folder / f"{name}.gguf", DTYPES[name], folder / "words.json", known["num_parameters"]
    )


def _quantised(name: str, work: Path) -> BenchModel:
    source, kind = QUANTISED[name]
    model = make_model(source, work)
    path = model.folder / f"{name}.gguf"
    if not path.is_file():
        print(f"Making the model {name} ...", flush=True)
        quantize_gguf(model.gguf, path.with_suffix(".part"), kind).rename(path)
    return replace(model, name=name, gguf=path, dtype=kind.lower())


def _recipe(name: str) -> str:
    """Changes when the model would come out otherwise."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in (here / "models.py", here / "gguf_file.py", here / "quantize_gguf.py", *sorted(POCKET.iterdir())):
        digest.update(path.read_bytes())
    return f"{name} {digest.hexdigest()}"


def _write(name: str, folder: Path) -> int:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    for file in TOKENIZER_FILES:
        shutil.copy(POCKET / file, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    dtype = getattr(torch, DTYPES[name])
    if name == "pocket":
        model = transformers.AutoModelForCausalLM.from_pretrained(POCKET, dtype=dtype)
    else:
        model = _random_model(SHAPES[name], tokenizer, dtype)
    characters = single_characters(tokenizer)
    _silence_all_but(model, list(characters.values()))
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.bos_token_id = None
        config.pad_token_id = 0
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    if name not in WITHOUT_GGUF:
        write_gguf(model, tokenizer, (folder / "chat_template.jinja").read_text(), folder / f"{name}.gguf")
    (folder / "words.json").write_text(json.dumps(sorted(characters), ensure_ascii=False))
    return int(model.num_parameters())


def _random_model(shape: dict[str, Any], tokenizer: dict[str, Any], dtype: Any) -> Any:
    import torch
    import transformers

    settings = {
        **shape,
        "vocab_size": _vocab_size(tokenizer),
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
    }
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(SEED)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_model(name: str, device: Any) -> Any:
    """One of `SHAPES` with random weights, made where it is to run; no file is written."""
    import torch

    tokenizer = json.loads((POCKET / "tokenizer.json").read_text())
    with torch.device(device):
        return _random_model(SHAPES[name], tokenizer, getattr(torch, DTYPES[name])).to(device)


def _vocab_size(tokenizer: dict[str, Any]) -> int:
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    return int(max(ids)) + 1


def single_characters(tokenizer: dict[str, Any]) -> dict[str, int]:
    """The Chinese characters that are a token, with its id."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    found = {}
    for piece, token_id in tokenizer["model"]["vocab"].items():
        raw = bytes(byte_of.get(char, 0) for char in piece)
        text = raw.decode(errors="ignore")
        if len(text) == 1 and text.encode() == raw and FIRST <= text <= LAST:
            found[text] = token_id
    return found


def _silence_all_but(model: Any, ids: list[int]) -> None:
    import torch

    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        silent = torch.ones(len(weight), dtype=torch.bool)
        silent[ids] = False
        weight[silent] = 0


def main() -> None:
    """Make the models and say where they are."""
    parser = argparse.ArgumentParser(description="Make the models that the benchmarks serve.")
    parser.add_argument("names", nargs="*", default=["tiny"], help=f"some of {', '.join(NAMES)}; default: tiny")
    parser.add_argument("--work", type=Path, default=default_work_folder(), help="where they go")
    args = parser.parse_args()
    for name in args.names:
        model = make_model(name, args.work)
        print(f"{model.label}: {model.folder}")


if __name__ == "__main__":
    main()
