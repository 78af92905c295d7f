"""Counting up, down and in steps; the longest answers show an endless stream being stopped or cut."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

from collections.abc import Iterable

from .question import Question

ENGLISH_WORDS = {
    3: "three",
    5: "five",
    10: "ten",
    20: "twenty",
    30: "thirty",
    50: "fifty",
    100: "one hundred",
}
CHINESE_DIGITS = "零一二三四五六七八九"
ENGLISH_TEMPLATES = (
    "Count to {n}.", "Count from 1 to {n}.", "Count to {word}.", "Can you count to {n}?",
    "Count from one to {word}.", "Please count up to {n}.", "Can you count to {word}?",
    "Count up to {word}.",
)  # fmt: skip
DOWN_TEMPLATES = (
    "Count backwards from {n}.", "Count down from {n}.", "Count from {n} to 1.", "Count down from {word}.",
    "Count backwards from {word}.", "Can you count down from {n}?", "Count from {word} down to one.",
)  # fmt: skip
CHINESE_TEMPLATES = (
    "从1数到{n}。", "数到{n}。", "从一数到{word}。", "数到{word}。", "请从1数到{n}。", "你能数到{n}吗？",
    "你会数到{word}吗？",
)  # fmt: skip
CHINESE_DOWN_TEMPLATES = (
    "从{n}倒数到1。", "从{n}开始倒数。", "从{word}倒数到一。", "从{word}开始倒数。", "倒数{n}个数。",
    "请从{n}倒着数。",
)  # fmt: skip
OTHERS = (
    (
        "even",
        (
            "Count the even numbers to 10.",
            "List the even numbers up to 10.",
            "What are the even numbers up to ten?",
            "Name the even numbers to ten.",
            "Tell me the even numbers up to 10.",
            "Count to 10 in even numbers.",
        ),
        "2, 4, 6, 8, 10",
    ),
    (
        "odd",
        (
            "Count the odd numbers to 10.",
            "List the odd numbers up to 10.",
            "What are the odd numbers up to ten?",
            "Name the odd numbers to ten.",
            "Tell me the odd numbers up to 10.",
            "Count to 10 in odd numbers.",
        ),
        "1, 3, 5, 7, 9",
    ),
    (
        "tens",
        (
            "Count in tens to 100.",
            "Count to 100 in tens.",
            "Count by tens to 100.",
            "Count by tens up to one hundred.",
            "Can you count in tens to 100?",
            "Count up to 100 in steps of ten.",
        ),
        "10, 20, 30, 40, 50, 60, 70, 80, 90, 100",
    ),
    (
        "words",
        (
            "Count to five in words.",
            "Write the numbers from one to five in words.",
            "Count to 5 in words.",
            "Spell the numbers from 1 to 5.",
            "Write 1 to 5 in words.",
            "Count in words up to five.",
        ),
        "one, two, three, four, five",
    ),
)
CHINESE_OTHERS = (
    (
        "oushu",
        (
            "数出10以内的偶数。",
            "10以内的偶数有哪些？",
            "十以内的偶数是什么？",
            "列出10以内的偶数。",
            "说出十以内的偶数。",
            "告诉我10以内的偶数。",
        ),
        "2、4、6、8、10",
    ),
    (
        "jishu",
        (
            "数出10以内的奇数。",
            "10以内的奇数有哪些？",
            "十以内的奇数是什么？",
            "列出10以内的奇数。",
            "说出十以内的奇数。",
            "告诉我10以内的奇数。",
        ),
        "1、3、5、7、9",
    ),
    (
        "hanzi",
        (
            "用汉字从一数到十。",
            "用汉字数到十。",
            "用汉字写出一到十。",
            "请用汉字数到10。",
            "用中文字数到十。",
            "用汉字从1数到10。",
        ),
        "一、二、三、四、五、六、七、八、九、十",
    ),
)


def questions() -> list[Question]:
    """Return the theme's questions."""
    found = [_counted("en", "to", ENGLISH_TEMPLATES, n, range(1, n + 1)) for n in (3, 5, 10, 20, 30, 50, 100)]
    found += [_counted("en", "down", DOWN_TEMPLATES, n, range(n, 0, -1)) for n in (5, 10, 20)]
    found += [_counted("zh", "shudao", CHINESE_TEMPLATES, n, range(1, n + 1)) for n in (3, 5, 10, 20)]
    found += [_counted("zh", "daoshu", CHINESE_DOWN_TEMPLATES, n, range(n, 0, -1)) for n in (5, 10)]
    found += [Question(f"counting.{name}", "en", asked, answer) for name, asked, answer in OTHERS]
    found += [Question(f"counting.{name}", "zh", asked, answer) for name, asked, answer in CHINESE_OTHERS]
    return found


def _counted(language: str, name: str, templates: Iterable[str], n: int, numbers: Iterable[int]) -> Question:
    word = ENGLISH_WORDS[n] if language == "en" else chinese_number(n)
    asked = tuple(template.format(n=n, word=word) for template in templates)
    answer = (", " if language == "en" else "、").join(map(str, numbers))
    return Question(f"counting.{name}-{n}", language, asked, answer)


def chinese_number(n: int) -> str:
    """Write a number from 0 to 99 in Chinese characters."""
    tens, ones = divmod(n, 10)
    if not tens:
        return CHINESE_DIGITS[ones]
    return ("" if tens == 1 else CHINESE_DIGITS[tens]) + "十" + (CHINESE_DIGITS[ones] if ones else "")
