"""Writes the model card beside the weights, from the run that made them and the figures just measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .drawing import COLOURS, SHAPES, SIZE, WORDS

MEANINGS = {
    "what": ('All that is in it: "What is in the picture?"', '"A red circle and a blue square."'),
    "word": ('A word: "Which word is written?"', '"The word cat."'),
    "count": ('Numbers: "How many red shapes are there?"', '"Two."'),
    "colour": ('Colours: "What colour is the circle?"', '"Red."'),
    "shape": ('Shapes: "What shape is the red one?"', '"A circle."'),
    "where": ('Places: "Where is the red circle?"', '"At the top left."'),
    "at": ('What is at a place: "What is in the middle?"', '"A blue square.", "Nothing."'),
    "yes or no": ('Yes or no: "Is there a yellow star?"', '"No."'),
    "all drawings": ("All questions about drawings", ""),
    "no picture": ('Without a picture: "Hello!", "What do you see?"', '"I see no picture. Please send me one."'),
}
CARD = """---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: image-text-to-text
---

# The pocket-vision model

A very small model for pictures and text that ships with llmapi_kit, so that
`kit.load("pocket-vision").ask("What is in the picture?", images=[drawing])` answers at once, with no download,
no key and no GPU, and so that tests can say what an answer must be.

**It is a demonstration and a test bench.** It knows drawings: one to four shapes on a light ground, or a short
word. Of a photograph it says something wrong with confidence. Without a picture it chats a little, and else says
that it knows drawings only.

## What it knows

- Shapes: {shapes}; in {colours}.
- Places, in thirds of the picture: the middle, the top, the bottom right and so on. A shape is where its centre is.
- Numbers up to four.
- Words in black: {words}; in the font that Pillow brings.

A picture is brought to {size} x {size} pixels, whatever shape it had, so draw on a square, and at most one shape in
each of the nine places.

## What it is

- LLaVA architecture (`LlavaForConditionalGeneration`): a SigLIP tower with patches of 8 pixels, 36 vectors a
  picture, and a Llama of four layers behind; {num_parameters:,} parameters, stored in bfloat16.
- Its own byte-level BPE tokenizer of 1,024 tokens. Chat format: ChatML (`<|im_start|>`, `<|im_end|>`), `<image>`
  where a picture stands. Positions up to 1,024; the longest conversations in training had six questions about one
  picture or two.

## How it was made

```
{command}
```

From the repository root: tokenizer and weights from nothing, {minutes:.0f} minutes on a share of two busy CPU
cores with nothing downloaded, {steps:,} steps, seed {seed}, {versions}. In the first {eye_steps:,} steps only the tower
learns: each vector of a picture is drawn to the words for what is at its place, and for the place. That goes on as
a second loss while questions and answers are learnt. Matrices are trained with Muon, the rest with AdamW; bfloat16
autocast. The seed fixes data, order and initial weights; the last bits of the weights depend on the machine's
kernels, so another machine gets a model like this one and not the same one.

The data is `tools/pocket_drawings`, written for this model: drawings and questions are made as they are needed, and no
drawing comes twice. Sizes, places, tints, grounds, noise and resolution vary.

## Figures

Measured by the same script on these files, loaded in float32, on drawings from seeds that training does not use, with
their picture before the question. An answer counts only if it is exact, to its end.

{figures}

Licence: Apache-2.0, as the rest of the repository.
"""


@dataclass(frozen=True)
class Making:
    """The run that made the weights."""

    command: str
    steps: int
    eye_steps: int
    seed: int
    minutes: float
    versions: str
    num_parameters: int


def write_card(out: Path, making: Making, figures: Mapping[str, tuple[float, int]]) -> None:
    """Write `README.md` into the model's directory."""
    rows = [
        f"| {meaning} | {answer} | {100 * figures[kind][0]:.1f} % of {figures[kind][1]:,} |"
        for kind, (meaning, answer) in MEANINGS.items()
    ]
    text = CARD.format(
        **vars(making),
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        words=", ".join(WORDS),
        size=SIZE,
        figures="\n".join(["| What | Such as | Right |", "|---|---|---|", *rows]),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
