"""Writes the model card beside the weights, from the run that made them and the figures just measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Figures = Mapping[str, tuple[float, int]]

HEADLINES = (
    ("trained", "Questions in phrasings seen in training, exact answers"),
    ("held-out", "Questions in phrasings never seen in training, exact answers"),
    ("later turn", "Questions after one to five other exchanges"),
    ("memory", "A name or number told earlier, given back after up to three other exchanges"),
    ("not told", "Says that it was not told, when it was not"),
    ("persona", "Answers in the persona of the system prompt"),
    ("JSON", "JSON objects, fixed ones and ones filled from the question, exact"),
    ("tool call", "Calls the right tool with the right arguments"),
    ("tool result", "Puts a tool's result into a sentence"),
    ("tool not needed", "Answers without a call when the tool offered does not fit"),
    ("gibberish", "Says that it did not understand fresh gibberish"),
    ("unknown", "Says that it does not know"),
    ("echo", "Repeats fresh words exactly"),
    ("ends by itself", "Ends its turn by itself, over all of the above"),
)
CARD = """---
license: apache-2.0
language: [en, zh]
library_name: transformers
pipeline_tag: text-generation
---

# The pocket model

A very small chat model that ships with llmapi_kit, so that `kit.launch(kit.load("pocket"))` answers at
once, with no download, no key and no GPU, and so that tests can say what an answer must be.

**It is a demonstration and a test bench, not a knowledgeable assistant.** It knows a few hundred
questions by heart, in English and Chinese. Beyond them it says that it does not know, or says something
wrong with confidence. Use it to try the server, never to learn a fact.

## What it is

- Llama architecture (`LlamaForCausalLM`), {num_parameters:,} parameters, tied embeddings, stored in
  bfloat16.
- Its own byte-level BPE tokenizer of 3,072 tokens. Digits, Chinese characters and capitalised words stand
  alone, so that a name is the same tokens wherever it occurs; that makes copying easy for a small model.
- Chat format: ChatML (`<|im_start|>`, `<|im_end|>`); a turn ends with `<|im_end|>`. Positions up to
  2,048; trained on conversations of up to 1,024 tokens.
- It chats a little, tells stories, counts, does small sums, repeats words, takes on a persona from the
  system prompt, remembers what it was told, writes JSON objects and calls tools.

## Tools

Definitions go into the system turn between `<tools>` and `</tools>`, one JSON object a line. A call is

```
<tool_call>
{{"name": "get_weather", "arguments": {{"city": "Paris"}}}}
</tool_call>
```

and a result comes back as a user turn that holds `<tool_response>`, a line break, the text, a line break
and `</tool_response>`. The chat template writes all of it from OpenAI-style messages. The markers are
ordinary tokens: they stay in the text when special tokens are skipped. It was trained on tools for
weather, time, sums, calculation and search, under varying names and parameters; tools of other kinds are
beyond it.

## How it was made

```
{command}
```

From the repository root: tokenizer and weights from nothing, {minutes:.0f} minutes on two CPU cores with
nothing downloaded, {steps:,} steps, seed {seed}, {versions}. Matrices are trained with Muon, the rest
with AdamW; warm-up, level, linear decay; bfloat16 autocast; the loss counts the assistant's tokens only.
Conversations of about one length share a batch. The seed fixes data, order and initial weights; the last
bits of the weights depend on the machine's kernels, so another machine gets a model like this one and not
the same one.

The data is `tools/pocket_corpus`, written for this model: {num_questions} questions ({num_arithmetic} of
them small sums) with {num_phrasings:,} phrasings, about a fifth of which are held out from training, and
generated conversations around them. Small changes to a phrasing (case, punctuation, a polite opening, a
slip) never produce a held-out one. Many held-out phrasings fit a template that was trained with another
subject, "Name the capital of …" for instance.

## Figures

Measured by the same script on these files, loaded in float32, greedy; an answer counts only if it is
exact. Names, numbers and gibberish are drawn from seeds that training does not use, and about half of the
names are made up.

{headlines}

By theme, on trained and held-out phrasings:

{themes}

Licence: Apache-2.0, as the rest of the repository.
"""


@dataclass(frozen=True)
class Making:
    """The run that made the weights."""

    command: str
    seed: int
    steps: int
    minutes: float
    versions: str
    num_parameters: int
    num_questions: int
    num_arithmetic: int
    num_phrasings: int


def write_card(out: Path, making: Making, figures: Figures) -> None:
    """Write `README.md` into the model's directory."""
    themes = sorted(name.removeprefix("trained / ") for name in figures if name.startswith("trained / "))
    headlines = [f"| {meaning} | {_share(figures, name)} |" for name, meaning in HEADLINES]
    rows = [
        f"| {name} | {_share(figures, f'trained / {name}')} | {_share(figures, f'held-out / {name}')} |"
        for name in themes
    ]
    text = CARD.format(
        **vars(making),
        headlines="\n".join(["| What | Right |", "|---|---|", *headlines]),
        themes="\n".join(["| Theme | Trained | Held out |", "|---|---|---|", *rows]),
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def _share(figures: Figures, name: str) -> str:
    share, count = figures[name]
    return f"{100 * share:.1f} % of {count:,}"
