"""Small random embedding models and rerankers, as their makers save them."""

from __future__ import annotations

import json
import shutil

import torch
import transformers
from safetensors.torch import save_file

from llmapi_kit.checkpoints.spec import POCKET_DIR, POCKET_EMBED_DIR

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TYPES = "sentence_transformers.models."


def make_tokenizer(folder, **values):
    """pocket-embed's words between [CLS] and [SEP], cut and filled up by its file, as many are on the hub."""
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(POCKET_EMBED_DIR / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]", **values
    )
    made.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    ids = made.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    from tokenizers.processors import TemplateProcessing

    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=list(zip(("[CLS]", "[SEP]"), ids, strict=True)),
    )
    made.backend_tokenizer.enable_truncation(8)
    made.backend_tokenizer.enable_padding(length=12)
    made.save_pretrained(folder)
    return made


def make_bert(folder, cls="BertModel", **values):
    """A BERT with a pooler that nobody needs, and its tokenizer."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer(folder, model_max_length=64)
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=48, **SIZES, **values)
    model = getattr(transformers, cls)(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def make_decoder(folder):
    """A Llama without an output layer, with the pocket model's tokenizer."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=3072, num_key_value_heads=1, max_position_embeddings=64, bos_token_id=None, eos_token_id=2, **SIZES
    )
    transformers.LlamaModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_DIR / name, folder)
    return folder


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def add_modules(folder, *kinds, first="Transformer", **files):
    """Make a folder one of sentence-transformers.

    Args:
        folder: with a model.
        kinds: of modules after the first.
        first: kind of the first.
        files: the content of configurations, by a module's kind.
    """
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{TYPES}{first}"}]
    for at, kind in enumerate(kinds, 1):
        path = f"{at}_{kind}"
        modules.append({"idx": at, "name": str(at), "path": path, "type": TYPES + kind})
        write(folder / path / "config.json", files.get(kind, {}))
    write(folder / "modules.json", modules)
    return folder


def add_dense(folder, path, sizes, **values):
    """Weights of a linear layer; returns them."""
    torch.manual_seed(2)
    linear = torch.nn.Linear(*sizes)
    config = {"in_features": sizes[0], "out_features": sizes[1], "bias": True, **values}
    write(folder / path / "config.json", config)
    save_file(
        {f"linear.{name}": each for name, each in linear.state_dict().items()}, folder / path / "model.safetensors"
    )
    return linear
