"""A small model folder, and ways in which the folders of people are not what they should be."""

from __future__ import annotations

import json
import shutil
import struct

import torch
import transformers
from safetensors.torch import load_file, save_file

from llmapi_kit.checkpoints.spec import POCKET_DIR

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 8956360\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Service unavailable</body></html>\n"


def make_small(folder):
    """A random Llama of two layers with the pocket model's tokenizer."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=3072,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(POCKET_DIR / name, folder)
    return folder


def written(name, content):
    """Put something else in place of a file."""

    def damage(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def without(name):
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def cut(name, length):
    """Keep only the beginning of a file, or leave so many bytes out at its end."""

    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return damage


def as_folder(name):
    """Put a folder in place of a file."""

    def damage(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def as_link_to(name, target):
    """Put a link in place of a file."""

    def damage(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def config(**values):
    """Change config.json; None takes a key away."""

    def damage(folder):
        path = folder / "config.json"
        changed = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))

    return damage


def kind(model_type, architecture, **values):
    """A config.json of another kind of model."""
    content = {"model_type": model_type, "architectures": [architecture], **values}
    return written("config.json", json.dumps({key: value for key, value in content.items() if value != [None]}))


def tensors(change):
    """Change the weights."""

    def damage(folder):
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def header(change):
    """Change what the header of the weights declares, and nothing of what is there."""

    def damage(folder):
        whole = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        entries = json.loads(whole[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])

    return damage


def sharded(*shards, weight_map=None):
    """Weights in shards: an index that names them, and those that are there."""

    def damage(folder):
        (folder / WEIGHTS).rename(folder / shards[0])
        names = {NORM: shards[0], EMBEDDING: shards[-1]} if weight_map is None else weight_map
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return damage


def only(name, content=b"x"):
    """Take the weights away and leave something else."""

    def damage(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return damage


def both(*damages):
    """One after the other."""

    def damage(folder):
        for each in damages:
            each(folder)

    return damage
