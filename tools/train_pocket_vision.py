"""Makes pocket-vision: trains a small model for pictures and text from nothing, measures it, writes the card.

Run from the repository root, for instance `python tools/train_pocket_vision.py --out
llmapi_kit/checkpoints/pocket_vision --steps 4000`. It learns from drawings that are made as it goes, see
`tools/pocket_drawings`. One process, CPU only; two cores need about an hour.
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
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from pocket_drawings import GRID, KINDS, SIZE, Drawing, ask, draw, talk
from pocket_drawings.card import Making, write_card
from pocket_drawings.examination import NO_PICTURE, Case, cases
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    AutoProcessor,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionConfig,
)
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

VOCABULARY_SIZE = 1024
IMAGE = "<image>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE)
# As the pocket model's: digits and capitalised words stand alone, so that they are the same tokens everywhere.
PIECES = r"\p{N}| ?\p{Ll}+|\p{Lu}\p{Ll}*| ?[^\s\p{L}\p{N}]+|\s+|\p{L}"
PATCH = 8
SIDE = SIZE // PATCH
CONTEXT = 1024
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX)
# What a vector of a picture is drawn to, beside the answers: the words for what is at its place
HINT_WEIGHT = 0.5
EMPTY_WEIGHT = 0.2
# Kinds of questions that are learnt last, and so are asked more often
HARD = {"what": 2, "where": 3, "at": 2}
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content or [] -%}
            {{- '<image>' if part.type == 'image' else part.text -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


@dataclass(frozen=True)
class Recipe:
    """What shapes a training run.

    In the first `eye_steps` steps only the eye learns, from the hints of `pictures` drawings; later from those that are
    asked about, and from `more_pictures`. Many of these have words, which are the slowest. `warm_up` and `level` are
    the points of the run, from 0 to 1, at which the learning rate has risen to its top and begins to fall.
    """

    steps: int
    seed: int
    eye_steps: int = 600
    pictures: int = 64
    more_pictures: int = 12
    eye_word_share: float = 0.45
    rows: int = 16
    turns: int = 6
    matrix_rate: float = 4e-3
    other_rate: float = 3e-3
    warm_up: float = 0.03
    level: float = 0.55


class Batch(NamedTuple):
    """Conversations of one step.

    Attributes:
        ids: (rows, length), right-padded; empty where only the eye learns.
        labels: the same, -100 but where the assistant speaks.
        pixels: (pictures, 3, SIZE, SIZE), in the order in which their tokens stand; then those that nobody asks about.
        hints: (pictures, patches, 4), the words for what is at each place of a picture, 0 where nothing is, and for the
            place.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor
    hints: torch.Tensor


def train_tokenizer(seed: int, count: int = 20_000) -> FastTokenizer:
    """Train a byte-level BPE on questions and answers and give it the chat template."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(texts(random.Random(seed)), count), trainer)
    return FastTokenizer(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106  (a piece of text, no secret)
        pad_token="<|endoftext|>",  # noqa: S106  (a piece of text, no secret)
        extra_special_tokens={"image_token": IMAGE},
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def texts(chance: random.Random) -> Iterator[str]:
    """What a tokenizer should learn to spell."""
    while True:
        question = ask(draw(chance), chance)
        said, answer = talk(chance)
        yield f"user\n{question.text}\nassistant\n{question.answer}\nsystem\n"
        yield f"user\n{said}\nassistant\n{answer}"


def new_processor(seed: int) -> LlavaProcessor:
    """Tokenizer and image processor; a picture of another shape is stretched, so that nothing of it is cut off."""
    return LlavaProcessor(
        SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}),
        train_tokenizer(seed),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )


def new_model(tokenizer: Any) -> LlavaForConditionalGeneration:
    """The untrained model, in fp32: a SigLIP tower, two layers between, and a Llama."""
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tower = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=SIDE**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


class BatchMaker:
    """Draws, asks and encodes the conversations of a step.

    Args:
        processor: of the model.
        recipe: how many.
    """

    def __init__(self, processor: LlavaProcessor, recipe: Recipe) -> None:
        self._tokenizer = processor.tokenizer
        self._mean = np.array(processor.image_processor.image_mean, dtype=np.float32)
        self._std = np.array(processor.image_processor.image_std, dtype=np.float32)
        self._recipe = recipe
        self._encoded: dict[str, list[int]] = {}

    def make(self, step: int) -> Batch:
        """The batch of a step."""
        chance = random.Random(f"{self._recipe.seed} {step}")
        drawings: list[Drawing] = []
        only_eye = step < self._recipe.eye_steps
        rows = [] if only_eye else [self._row(chance, drawings) for _ in range(self._recipe.rows)]
        num_more = self._recipe.pictures if only_eye else self._recipe.more_pictures
        drawings += [draw(chance, self._recipe.eye_word_share) for _ in range(num_more)]
        width = max((len(ids) for ids, _ in rows), default=0)
        pad = self._tokenizer.pad_token_id
        return Batch(
            torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows]),
            torch.from_numpy(np.stack([self._pixels(drawing.image, chance) for drawing in drawings])),
            torch.tensor([self._hints(drawing) for drawing in drawings]),
        )

    def _row(self, chance: random.Random, drawings: list[Drawing]) -> tuple[list[int], list[int]]:
        """Ids and labels of a conversation: about one drawing, about two, or about none."""
        mood = chance.random()
        turns = self._recipe.turns
        parts = [turns] if mood < 0.75 else [turns // 2] * 2 if mood < 0.9 else []
        ids: list[int] = []
        labels: list[int] = []
        for number in parts:
            drawing = draw(chance)
            drawings.append(drawing)
            for turn in range(number):
                question = ask(drawing, chance, HARD)
                self._add(self._asked(question.text, turn == 0, chance), question.answer, ids, labels)
        for _ in range(0 if parts else turns):
            said, answer = talk(chance)
            self._add(said, answer, ids, labels)
        return ids, labels

    def _asked(self, text: str, is_first: bool, chance: random.Random) -> str:
        """A question as users write it, with its picture before or behind it."""
        text = text.lower() if chance.random() < 0.1 else text
        text = text.rstrip("?.") if chance.random() < 0.1 else text
        if not is_first:
            return text
        marks = IMAGE * SIDE**2
        return f"{marks}{text}" if chance.random() < 0.5 else f"{text}{marks}"

    def _add(self, text: str, answer: str, ids: list[int], labels: list[int]) -> None:
        asked = self._encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
        said = self._encode(f"{answer}<|im_end|>")
        after = self._encode("\n")
        ids += asked + said + after
        labels += [-100] * len(asked) + said + [-100] * len(after)

    def _encode(self, text: str) -> list[int]:
        if text not in self._encoded:
            self._encoded[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._encoded[text]

    def _pixels(self, image: Image.Image, chance: random.Random) -> np.ndarray:
        """As the image processor makes them, in one of the ways in which programs make pictures smaller."""
        small = image.resize((SIZE, SIZE), chance.choice(FILTERS))
        return ((np.asarray(small, dtype=np.float32) / 255 - self._mean) / self._std).transpose(2, 0, 1)

    def _hints(self, drawing: Drawing) -> list[list[int]]:
        hints = []
        for row, column in itertools.product(range(SIDE), repeat=2):
            place = row * GRID // SIDE, column * GRID // SIDE
            here = [(thing.colour, thing.shape) for thing in drawing.things if thing.place == place]
            if drawing.word and _covers(drawing.word_box, row, column):
                here = [(drawing.word, "word")]
            what = [self._first(word) for word in here[0]] if here else [0, 0]
            hints.append([*what, self._first(ROWS[place[0]]), self._first(COLUMNS[place[1]])])
        return hints

    def _first(self, word: str) -> int:
        return self._encode(f" {word}")[0]


def _covers(box: tuple[float, float, float, float], row: int, column: int) -> bool:
    left, top, right, bottom = box
    x, y = (column + 0.5) / SIDE, (row + 0.5) / SIDE
    return left <= x <= right and top - 0.5 / SIDE <= y <= bottom + 0.5 / SIDE


def losses(model: LlavaForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of the assistant's tokens, and of the hints at the pictures' vectors."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = model.model.get_image_features(pixel_values=batch.pixels, return_dict=True).pooler_output
        seen = torch.stack(list(vectors))
        hints = _hint_loss(seen, batch.hints, model.get_input_embeddings().weight)
        return _answer_loss(model, batch, seen) if batch.ids.numel() else torch.zeros(()), hints


def _answer_loss(model: LlavaForConditionalGeneration, batch: Batch, seen: torch.Tensor) -> torch.Tensor:
    is_image = batch.ids == model.config.image_token_id
    inputs = model.get_input_embeddings()(batch.ids)
    inputs = inputs.masked_scatter(is_image[..., None], seen.reshape(-1, seen.shape[-1]).to(inputs.dtype))
    hidden = model.model.language_model(inputs_embeds=inputs[:, :-1], use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:] != -100
    return functional.cross_entropy(model.lm_head(hidden[wanted]).float(), batch.labels[:, 1:][wanted])


def _hint_loss(seen: torch.Tensor, hints: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    logits = (functional.rms_norm(seen, (seen.shape[-1],)) @ embeddings.T).float().transpose(1, 2)
    weights = torch.where(hints[..., 0] == 0, EMPTY_WEIGHT, 1.0)
    each = [functional.cross_entropy(logits, words, reduction="none") for words in hints.unbind(-1)]
    return (torch.stack(each).mean(0) * weights).sum() / weights.sum()


def train(model: LlavaForConditionalGeneration, processor: LlavaProcessor, recipe: Recipe, state: Path) -> float:
    """Train in place, report progress, and return the minutes it took; goes on from `state` where that is there."""
    optimizers = new_optimizers(model, recipe)
    maker = BatchMaker(processor, recipe)
    first, minutes = resume(state, model, optimizers)
    model.train()
    began, recent = time.perf_counter() - 60 * minutes, [0.0, 0.0]
    for step in range(first, recipe.steps):
        rate = schedule(step / recipe.steps, recipe)
        for optimizer, top in zip(optimizers, (recipe.matrix_rate, recipe.other_rate), strict=True):
            optimizer.param_groups[0]["lr"] = top * rate
        answers, hints = losses(model, maker.make(step))
        (answers + HINT_WEIGHT * hints).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found = (float(answers.detach()), float(hints.detach()))
        keep = 0.95 if step > first else 0.0
        recent = [keep * old + (1 - keep) * new for old, new in zip(recent, found, strict=True)]
        if step % 25 == 0:
            spent = (time.perf_counter() - began) / 60
            print(f"step {step:5d}  answers {recent[0]:.4f}  hints {recent[1]:.4f}  {spent:5.1f} min", flush=True)
        if step % 200 == 199:
            spent = (time.perf_counter() - began) / 60
            parts = (step + 1, spent, model.state_dict(), [each.state_dict() for each in optimizers])
            torch.save(parts, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
        if step % 400 == 399:
            print(summary(examine(model, processor, 20)), flush=True)
    return (time.perf_counter() - began) / 60


def new_optimizers(model: LlavaForConditionalGeneration, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for matrices, AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return (
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.other_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    )


def resume(state: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> tuple[int, float]:
    """The step to go on with and the minutes spent so far."""
    if not state.is_file():
        return 0, 0.0
    step, minutes, weights, inner = torch.load(state)
    model.load_state_dict(weights)
    for optimizer, one in zip(optimizers, inner, strict=True):
        optimizer.load_state_dict(one)
    return step, minutes


def schedule(progress: float, recipe: Recipe) -> float:
    """The share of the top learning rate at a point of the run, from 0 to 1."""
    if progress < recipe.warm_up:
        return min(1.0, 0.05 + progress / recipe.warm_up)
    if progress < recipe.level:
        return 1.0
    return max(0.01, (1.0 - progress) / (1.0 - recipe.level))


@torch.inference_mode()
def examine(model: Any, processor: Any, count: int) -> list[tuple[Case, bool]]:
    """Whether each case is answered exactly: every token of the answer, and its end, is the likeliest one."""
    model.eval()
    every = sorted(cases(count), key=lambda case: case.drawing is None)
    graded = []
    for first in range(0, len(every), 32):
        group = every[first : first + 32]
        graded += zip(group, _are_right(model, processor, group), strict=True)
    model.train()
    return graded


def _are_right(model: Any, processor: Any, group: Sequence[Case]) -> list[bool]:
    tokenizer = processor.tokenizer
    rows = []
    for case in group:
        content: list[dict[str, Any]] = [{"type": "image"}] if case.drawing else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": case.question}]}]
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        asked = tokenizer.encode(asked.replace(IMAGE, IMAGE * SIDE**2), add_special_tokens=False)
        rows.append((asked, [*tokenizer.encode(case.answer, add_special_tokens=False), tokenizer.eos_token_id]))
    width = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.tensor([asked + said + [0] * (width - len(asked) - len(said)) for asked, said in rows])
    images = [case.drawing.image for case in group if case.drawing]
    seen = {"pixel_values": processor.image_processor(images, return_tensors="pt")["pixel_values"]} if images else {}
    likeliest = model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).logits.argmax(-1)
    return [
        likeliest[row, len(asked) - 1 : len(asked) + len(said) - 1].tolist() == said
        for row, (asked, said) in enumerate(rows)
    ]


def shares(graded: Sequence[tuple[Case, bool]]) -> dict[str, tuple[float, int]]:
    """The share of exact answers and their number, by kind, and of all questions about drawings."""
    found: dict[str, list[bool]] = {kind: [] for kind in [*KINDS, NO_PICTURE, "all drawings"]}
    for case, is_right in graded:
        found[case.kind].append(is_right)
        if case.drawing:
            found["all drawings"].append(is_right)
    return {kind: (sum(right) / len(right), len(right)) for kind, right in found.items()}


def summary(graded: Sequence[tuple[Case, bool]]) -> str:
    """The shares, in a line."""
    return "  " + "  ".join(f"{kind} {share:.0%}" for kind, (share, _) in shares(graded).items())


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write weights in bfloat16, tokenizer, chat template and configurations."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    tokenizer = processor.tokenizer
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((out / name).read_text(encoding="utf-8"))
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
        (out / name).write_text(text + "\n", encoding="utf-8")


def evaluate(directory: Path, count: int) -> dict[str, tuple[float, int]]:
    """Examine the saved weights, loaded in fp32, and print the figures and some wrong questions."""
    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    graded = examine(model, AutoProcessor.from_pretrained(directory, backend="pil"), count)
    wrong = [case for case, is_right in graded if not is_right]
    for case in random.Random(1).sample(wrong, min(40, len(wrong))):
        print(f"  wrong, {case.kind}: {case.question!r}, not {case.answer!r}")
    figures = shares(graded)
    for name, (share, number) in figures.items():
        print(f"{name:16s} {100 * share:6.2f} %  of {number}")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("llmapi_kit/checkpoints/pocket_vision"))
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=7, help="of the drawings, the weights and the order of training")
    parser.add_argument("--state", type=Path, default=Path("build/pocket_vision.state"), help="to go on after a stop")
    parser.add_argument("--count", type=int, default=500, help="questions of each kind in the examination")
    parser.add_argument("--evaluate", action="store_true", help="examine an existing model directory, train nothing")
    options = parser.parse_args(arguments)
    if options.evaluate:
        evaluate(options.out, options.count)
        return
    torch.manual_seed(options.seed)
    options.state.parent.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(options.steps, options.seed)
    processor = new_processor(options.seed)
    model = new_model(processor.tokenizer)
    print(f"{model.num_parameters():,} parameters", flush=True)
    minutes = train(model, processor, recipe, options.state)
    save(model, processor, options.out)
    making = Making(
        command=f"python tools/train_pocket_vision.py --steps {recipe.steps} --seed {recipe.seed}",
        steps=recipe.steps,
        eye_steps=recipe.eye_steps,
        seed=recipe.seed,
        minutes=minutes,
        versions=f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
        num_parameters=model.num_parameters(),
    )
    write_card(options.out, making, evaluate(options.out, options.count))


if __name__ == "__main__":
    main()
