"""Makes the pocket model: trains its tokenizer and weights from nothing, measures them, writes the card.

Run from the repository root, for instance `python tools/train_pocket.py --out llmapi_kit/checkpoints/pocket
--steps 2400`. The corpus is `tools/pocket_corpus`. One process, CPU only; two cores need about half an hour.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from pocket_corpus import Conversation, conversations, questions
from pocket_corpus.card import Making, write_card
from pocket_corpus.examination import Graded, phrasing_cases, shares, skill_cases, take
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

VOCABULARY_SIZE = 3072
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# A capital letter never carries the space before it, and Chinese characters and digits stand alone: so a
# name, a city or a number is the same tokens wherever it occurs, and copying it is easy to learn.
PIECES = r"\p{Han}|\p{N}| ?\p{Ll}+|\p{Lu}\p{Ll}*| ?[^\s\p{L}\p{N}]+|\s+|\p{L}"
CONTEXT = 2048
MAX_TRAINED_TOKENS = 1024
WINDOW = 768
PROBE_EVERY = 500


@dataclass(frozen=True)
class Recipe:
    """What shapes a training run.

    `tokens_per_batch` counts padding; `warm_up` and `level` are the points of the run, from 0 to 1, at which the
    learning rate has risen to its top and begins to fall.
    """

    steps: int
    seed: int
    tokens_per_batch: int = 2048
    batches_per_step: int = 2
    matrix_rate: float = 4e-3
    other_rate: float = 3e-3
    warm_up: float = 0.0275
    level: float = 0.48125


def train_tokenizer(seed: int, num_conversations: int = 12_000) -> FastTokenizer:
    """Train a byte-level BPE on the corpus and give it the chat template."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(MARKERS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = itertools.islice(conversations(seed), num_conversations)
    tokenizer.train_from_iterator((text for conversation in sample for text in texts_of(conversation)), trainer)
    tokenizer.add_tokens(list(MARKERS))
    return FastTokenizer(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106  (a piece of text, no secret)
        pad_token="<|endoftext|>",  # noqa: S106  (a piece of text, no secret)
        chat_template=(Path(__file__).parent / "pocket_corpus" / "chat_template.jinja")
        .read_text(encoding="utf-8")
        .strip(),
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def texts_of(conversation: Conversation) -> Iterator[str]:
    """Yield what a tokenizer should learn to spell: messages, tool definitions and calls."""
    yield from (json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    for message in conversation.messages:
        yield f"{message['role']}\n{message['content']}"
        for call in message.get("tool_calls", ()):
            yield json.dumps(call["function"], ensure_ascii=False)


def new_model(tokenizer: FastTokenizer) -> LlamaForCausalLM:
    """Return the untrained model, in fp32."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = ["LlamaForCausalLM"]
    return LlamaForCausalLM(config)


def encode(conversation: Conversation, tokenizer: FastTokenizer, opening: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the ids and, for each of them, 1 where the assistant speaks (its end marker included)."""
    ids = tokenizer.apply_chat_template(conversation.messages, tools=conversation.tools or None, return_dict=False)
    spoken = [0] * len(ids)
    end = tokenizer.eos_token_id
    at = 0
    while at < len(ids):
        if ids[at : at + len(opening)] == list(opening):
            at += len(opening)
            stop = ids.index(end, at)
            spoken[at : stop + 1] = [1] * (stop + 1 - at)
            at = stop
        at += 1
    return ids, spoken


def batches(tokenizer: FastTokenizer, recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `(ids, spoken)`, both `(batch, length)`, of conversations of about one length, right-padded.

    Sorting a window of conversations by length wastes as little as packing and needs no mask between
    neighbours.
    """
    rng = random.Random(recipe.seed)
    opening = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    stream = conversations(recipe.seed)
    while True:
        encoded = [encode(conversation, tokenizer, opening) for conversation in itertools.islice(stream, WINDOW)]
        encoded = sorted(
            (pair for pair in encoded if len(pair[0]) <= MAX_TRAINED_TOKENS), key=lambda pair: len(pair[0])
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in encoded:
            if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > recipe.tokens_per_batch:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            pad = tokenizer.pad_token_id
            yield (
                torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([spoken + [0] * (width - len(spoken)) for _, spoken in group]),
            )


def train(model: LlamaForCausalLM, tokenizer: FastTokenizer, recipe: Recipe) -> float:
    """Train in place, report progress, and return the minutes it took."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.other_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    )
    source = batches(tokenizer, recipe)
    model.train()
    began, seen, recent = time.perf_counter(), 0, 0.0
    for step in range(recipe.steps):
        rate = schedule(step / recipe.steps, recipe)
        for optimizer, top in zip(optimizers, (recipe.matrix_rate, recipe.other_rate), strict=True):
            optimizer.param_groups[0]["lr"] = top * rate
        group = list(itertools.islice(source, recipe.batches_per_step))
        num_spoken = sum(int(spoken[:, 1:].sum()) for _, spoken in group)
        loss = 0.0
        for ids, spoken in group:
            part = spoken_loss(model, ids, spoken) / num_spoken
            part.backward()
            loss += float(part.detach())
            seen += ids.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent = loss if step == 0 else 0.95 * recent + 0.05 * loss
        if step % 50 == 0 or step == recipe.steps - 1:
            elapsed = time.perf_counter() - began
            left = elapsed / (step + 1) * (recipe.steps - step - 1)
            speed = f"{seen / elapsed:7.0f} tokens/s  {left / 60:5.1f} min left"
            print(f"step {step:5d}  loss {recent:.4f}  {speed}", flush=True)
        if step and step % PROBE_EVERY == 0:
            probe(model, tokenizer)
    return (time.perf_counter() - began) / 60


def probe(model: LlamaForCausalLM, tokenizer: FastTokenizer) -> None:
    """Print how many of a few skill cases come out right, to see copying set in."""
    model.eval()
    graded = take(model, tokenizer, skill_cases(10))
    model.train()
    print(
        "  ".join(f"{name} {share:.0%}" for name, (share, _) in shares(graded).items() if "/" not in name),
        flush=True,
    )


def spoken_loss(model: LlamaForCausalLM, ids: torch.Tensor, spoken: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of the assistant's tokens; only their logits are computed."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        wanted = spoken[:, 1:].bool()
        logits = model.lm_head(hidden[wanted])
    return functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="sum")


def schedule(progress: float, recipe: Recipe) -> float:
    """Return the share of the top learning rate at a point of the run, from 0 to 1."""
    if progress < recipe.warm_up:
        return min(1.0, 0.05 + progress / recipe.warm_up)
    if progress < recipe.level:
        return 1.0
    return max(0.01, (1.0 - progress) / (1.0 - recipe.level))


def save(model: LlamaForCausalLM, tokenizer: FastTokenizer, out: Path) -> None:
    """Write weights in bfloat16, tokenizer, chat template and configurations."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    # Older transformers look for these names.
    for name, additions in (
        ("config.json", {"torch_dtype": "bfloat16", "rope_theta": 10000.0}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ):
        path = out / name
        content = json.loads(path.read_text(encoding="utf-8")) | additions
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def evaluate(directory: Path, max_phrasings: int | None = None) -> list[Graded]:
    """Examine the saved weights, loaded in fp32, and print the figures and some wrong answers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    cases = phrasing_cases()
    if max_phrasings is not None:
        cases = random.Random(0).sample(cases, max_phrasings)
    graded = take(model, tokenizer, cases + skill_cases())
    wrong = [one for one in graded if not one.is_right]
    for one in random.Random(1).sample(wrong, min(60, len(wrong))):
        asked = one.case.messages[-1]["content"]
        print(f"  wrong, {one.case.category} {one.case.group}: {asked!r}")
        print(f"    {one.answer[:200]!r}, not {one.case.expected!r:.200}")
    for name, (share, count) in shares(graded).items():
        print(f"{name:40s} {100 * share:6.2f} %  of {count}")
    return graded


def describe(recipe: Recipe, model: LlamaForCausalLM, minutes: float) -> Making:
    """Return what the card says of the run."""
    found = questions()
    return Making(
        command=f"python tools/train_pocket.py --steps {recipe.steps} --seed {recipe.seed}",
        seed=recipe.seed,
        steps=recipe.steps,
        minutes=minutes,
        versions=f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
        num_parameters=model.num_parameters(),
        num_questions=len(found),
        num_arithmetic=sum(question.theme == "arithmetic" for question in found),
        num_phrasings=sum(len(question.phrasings) for question in found),
    )


def show(directory: Path, text: str) -> None:
    """Print the answer to one question."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": text}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, max_new_tokens=512)
    print(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("llmapi_kit/checkpoints/pocket"), help="the model's directory")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps of about 4,000 tokens")
    parser.add_argument("--seed", type=int, default=7, help="of the corpus, the weights and the order of training")
    parser.add_argument("--quick", action="store_true", help="examine 1,500 phrasings instead of all")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--evaluate", action="store_true", help="examine an existing model directory, train nothing")
    only.add_argument("--show", metavar="TEXT", help="print an existing model's answer to TEXT, train nothing")
    options = parser.parse_args(arguments)
    if options.show:
        show(options.out, options.show)
        return
    limit = 1500 if options.quick else None
    if options.evaluate:
        evaluate(options.out, limit)
        return
    torch.manual_seed(options.seed)
    recipe = Recipe(options.steps, options.seed)
    tokenizer = train_tokenizer(options.seed)
    model = new_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary")
    minutes = train(model, tokenizer, recipe)
    save(model, tokenizer, options.out)
    graded = evaluate(options.out, limit)
    if not limit:
        write_card(options.out, describe(recipe, model, minutes), shares(graded))


if __name__ == "__main__":
    main()
