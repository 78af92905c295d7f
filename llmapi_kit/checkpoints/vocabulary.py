"""Which tokenizer a model gets, and an embedding with a row for each of its tokens.

Knows nothing of files of weights. Part of loading: blocking.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
import transformers

from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.download import DEFAULT_STALL_S, find_folder
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.hub import TOKENIZER_FILES
from llmapi_kit.checkpoints.model_files import CONFIG, check_tokenizer_files, read_json
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.errors import ModelLoadError

logger = logging.getLogger(__name__)

# By a model's type and the class that its tokenizer_config.json names; a test compares it with AutoTokenizer's choice
_FAST = dict.fromkeys(("PreTrainedTokenizerFast", "TokenizersBackend"), "PreTrainedTokenizerFast")
_LLAMA = dict.fromkeys(("LlamaTokenizer", "LlamaTokenizerFast"), "LlamaTokenizer")
_GPT2 = dict.fromkeys(("GPT2Tokenizer", "GPT2TokenizerFast"), "GPT2Tokenizer")
_QWEN = dict.fromkeys(("Qwen2Tokenizer", "Qwen2TokenizerFast"), "Qwen2Tokenizer")
_GEMMA = _FAST | dict.fromkeys(("GemmaTokenizer", "GemmaTokenizerFast"), "GemmaTokenizer")
# Of these families the class that a file names is not believed
_ANY = dict.fromkeys((*_FAST, *_LLAMA, *_GPT2), "PreTrainedTokenizerFast")
_OF_MISTRAL = ("mistral", "ministral", "mixtral")
TOKENIZER_CLASSES = {
    **dict.fromkeys(("llama", "smollm3", "seed_oss", "cwm", "gpt_oss"), _FAST | _LLAMA | _GPT2 | _QWEN),
    "qwen2": dict.fromkeys((*_FAST, *_QWEN), "Qwen2Tokenizer"),
    **dict.fromkeys(("qwen3", "qwen2_moe", "qwen3_moe"), _FAST | _QWEN),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("phi3", "granite", "olmo2", "olmo3", *_OF_MISTRAL), _ANY),
    "olmoe": _FAST | dict.fromkeys(("GPTNeoXTokenizer", "GPTNeoXTokenizerFast"), "GPTNeoXTokenizer"),
}


def load_tokenizer(source: str, what: str, *, trusts_code: bool = False) -> Any:
    """The tokenizer of a folder or of a model of the hub.

    Args:
        source: a folder, or ``owner/name`` of the hub.
        what: it is, for messages: ``The tokenizer of …``.
        trusts_code: whether code that comes with it may be run.

    Raises:
        ModelLoadError: its files are damaged, or are not a tokenizer's.
    """
    try:
        tokenizer: Any = _tokenizer_class(source).from_pretrained(source, trust_remote_code=trusts_code)
        num_tokens = len(tokenizer)
    except Exception as exc:  # whatever its files make transformers raise
        raise ModelLoadError(f"{what} could not be loaded: {type(exc).__name__}: {exc}") from exc
    if num_tokens == 0:
        raise ModelLoadError(f"{what} could not be loaded: its files hold no tokens.")
    return tokenizer


def _tokenizer_class(source: str) -> Any:
    """The class that transformers chooses for a tokenizer; `AutoTokenizer`, which chooses, where that is not known.

    It looks into the model's configuration first, whose import takes longer than all else that a tokenizer needs.
    """
    folder = Path(source)
    try:
        family = str(read_json(folder / CONFIG).get("model_type"))
        own = read_json(folder / "tokenizer_config.json")
    except ModelLoadError:
        return transformers.AutoTokenizer
    name = None if "auto_map" in own else TOKENIZER_CLASSES.get(family, {}).get(str(own.get("tokenizer_class")))
    if name is None or not (folder / "tokenizer.json").is_file() or (family in _OF_MISTRAL and _is_tekken(folder)):
        import_heavy(MODEL_CLASSES)
        return transformers.AutoTokenizer
    # Llama 3's vocabularies stand under the name of Llama 2's class, too
    if name == "LlamaTokenizer" and b'"ByteLevel"' in (folder / "tokenizer.json").read_bytes():
        name = "PreTrainedTokenizerFast"
    return getattr(transformers, name)


def _is_tekken(folder: Path) -> bool:
    """Whether transformers leaves a tokenizer of Mistral's to Mistral's own package."""
    return (folder / "tekken.json").is_file() and importlib.util.find_spec("mistral_common") is not None


def load_other_tokenizer(name: str, stall_s: float = DEFAULT_STALL_S) -> Any:
    """A tokenizer that does not come with the model's own files.

    Args:
        name: a folder, ``owner/name`` of the hub, or ``pocket``.
        stall_s: see `llmapi_kit.checkpoints.download.Download`.

    Raises:
        ModelNotFoundError: there is none.
        ModelLoadError: its files are damaged, or are not a tokenizer's.
    """
    folder = POCKET_DIR if name == "pocket" else find_folder(name, "tokenizer", TOKENIZER_FILES, stall_s)
    check_tokenizer_files(folder)
    return load_tokenizer(str(folder), f"The tokenizer {name}")


def fit_embeddings(model: Any, num_tokens: int, num_trained: int) -> None:
    """Give the embedding, and the output layer, a row for each token.

    Args:
        model: a causal language model of transformers, or the weights of one.
        num_tokens: of its tokenizer.
        num_trained: rows of an embedding that an adapter brings; 0 for none.

    Raises:
        ModelLoadError: the adapter's embedding has fewer rows than there are tokens.
    """
    is_module = not isinstance(model, DecoderWeights)
    num_rows = model.get_input_embeddings().weight.shape[0] if is_module else model.vocab_size
    if 0 < num_trained < num_tokens:
        raise ModelLoadError(
            f"The tokenizer has {num_tokens:,} tokens and the adapter's embedding {num_trained:,} rows. Pass the "
            "tokenizer that the adapter was trained with."
        )
    wanted = num_trained or max(num_tokens, num_rows)
    if wanted == num_rows:
        return
    # Rows that nothing trained are all alike and never the likeliest, and the same at each load
    if is_module:
        _resize(model, num_rows, wanted)
    else:
        model.add_mean_rows(wanted)
    logger.log(
        logging.INFO if num_trained else logging.WARNING,
        "The embedding has %s rows now, not %s: the tokenizer has %s tokens. %s",
        f"{wanted:,}",
        f"{num_rows:,}",
        f"{num_tokens:,}",
        "The adapter brings the rows."
        if num_trained
        else "Nothing trained the new rows, so these tokens mean nothing.",
    )


def _resize(model: Any, num_rows: int, wanted: int) -> None:
    model.resize_token_embeddings(wanted, mean_resizing=False)
    if wanted > num_rows:
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[num_rows:] = layer.weight[:num_rows].mean(0)
