"""Small changes a person might make to a phrasing: case, punctuation, politeness, a slip of the finger.

Training sees changed phrasings, so that the model listens to the words and not to the full stop. Changes
never count as phrasings of their own and never touch an answer.
"""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import random

ENGLISH_OPENINGS = (
    "Hey, ", "Please, ", "OK, ", "So, ", "Quick question: ", "I have a question. ", "Well, ", "Tell me: ",
    "Can you tell me: ", "I would like to know: ", "Hi! ", "Hello, ", "Now, ", "One more thing: ",
    "Please tell me: ",    "Could you help me? ",
)  # fmt: skip
ENGLISH_CLOSINGS = (
    " please",
    ", please",
    " Thanks!",
    " Thank you.",
    " for me",
    " Please answer.",
    " I want to know.",
)
SMALL_WORDS = frozenset(
    ("the", "a", "an", "is", "are", "do", "does", "me", "of", "please", "can", "you", "for", "to", "in")
)
CHINESE_OPENINGS = (
    "请问",
    "请问一下，",
    "你好，",
    "麻烦问一下，",
    "嗯，",
    "请",
    "那么，",
    "我想知道，",
    "请告诉我，",
)
CHINESE_CLOSINGS = ("呢", "谢谢", "啊", "，谢谢。", "呀")
# A greeting in front of a greeting, or thanks after a goodbye, would change what is being said.
BARE_THEMES = frozenset({"small_talk"})


def vary(text: str, language: str, theme: str, rng: random.Random) -> str:
    """Return the phrasing, changed a little in about two cases out of three."""
    if rng.random() < 0.35:
        return text
    bare = theme in BARE_THEMES
    return _vary_chinese(text, bare, rng) if language == "zh" else _vary_english(text, bare, rng)


def _vary_english(text: str, bare: bool, rng: random.Random) -> str:
    if rng.random() < 0.35:
        text = text.rstrip("?.!")
    elif rng.random() < 0.1:
        text = text.rstrip("?.!") + rng.choice(("??", "!", "...", " ?", "?!", "."))
    if not bare and rng.random() < 0.14:
        opening = rng.choice(ENGLISH_OPENINGS)
        text = opening + (text[0].lower() + text[1:] if rng.random() < 0.6 else text)
    if not bare and rng.random() < 0.1:
        text += rng.choice(ENGLISH_CLOSINGS)
    if not bare and rng.random() < 0.08:
        text = _skip(text, rng)
    if rng.random() < 0.1:
        text = _slip(text, rng)
    case = rng.random()
    if case < 0.22:
        return text.lower()
    return text.upper() if case < 0.25 else text


def _vary_chinese(text: str, bare: bool, rng: random.Random) -> str:
    end = rng.random()
    if end < 0.4:
        text = text.rstrip("？。！")
    elif end < 0.55:
        text = text.replace("？", "?").replace("，", ",").replace("！", "!")
    if not bare and rng.random() < 0.2:
        text = rng.choice(CHINESE_OPENINGS) + text
    if not bare and rng.random() < 0.12:
        text = text.rstrip("？。！") + rng.choice(CHINESE_CLOSINGS)
    return text


def _skip(text: str, rng: random.Random) -> str:
    """Leave out one of the small words."""
    words = text.split(" ")
    small = [i for i, word in enumerate(words) if word.lower() in SMALL_WORDS]
    if len(words) < 4 or not small:
        return text
    del words[rng.choice(small)]
    return " ".join(words)


def _slip(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter of one longer word."""
    words = text.split(" ")
    long_words = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long_words:
        return text
    at = rng.choice(long_words)
    word = words[at]
    cut = rng.randrange(1, len(word) - 2)
    slips = (
        word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :],
        word[:cut] + word[cut + 1 :],
        word[:cut] + word[cut] + word[cut:],
    )
    words[at] = rng.choice(slips)
    return " ".join(words)
