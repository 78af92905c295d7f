"""Sums and differences up to nine, and the times tables up to five, in English and Chinese."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

from .counting import chinese_number
from .question import Question

ENGLISH_TEMPLATES = (
    "What is {a} {op} {b}?", "How much is {a} {op} {b}?", "{a} {op} {b}", "Calculate {a} {op} {b}.",
    "{a} {sign} {b}", "What is {a} {sign} {b}?", "What's {a} {op} {b}?", "{a}{sign}{b}=?",
    "Tell me what {a} {op} {b} is.",
)  # fmt: skip
CHINESE_TEMPLATES = (
    "{a}{op}{b}等于几？", "{a}{op}{b}等于多少？", "{a}{op}{b}是多少？", "算一下{a}{op}{b}。",
    "{ca}{op}{cb}等于几？", "{ca}{op}{cb}是多少？", "计算{a}{op}{b}。",
)  # fmt: skip
OPERATIONS = (("plus", "加", "+"), ("minus", "减", "-"), ("times", "乘", "*"))


def questions() -> list[Question]:
    """Return the theme's questions."""
    found = []
    for english, chinese, sign in OPERATIONS:
        for a in range(1, 6 if sign == "*" else 10):
            for b in range(1, 10):
                if sign == "-" and b > a:
                    continue
                result = {"+": a + b, "-": a - b, "*": a * b}[sign]
                name = f"arithmetic.{english}-{a}-{b}"
                asked = tuple(t.format(a=a, b=b, op=english, sign=sign) for t in ENGLISH_TEMPLATES)
                found.append(Question(name, "en", asked, f"{a} {english} {b} is {result}.", short=f"{result}."))
                ca, cb = chinese_number(a), chinese_number(b)
                asked = tuple(t.format(a=a, b=b, op=chinese, ca=ca, cb=cb) for t in CHINESE_TEMPLATES)
                found.append(Question(f"{name}-zh", "zh", asked, f"{a}{chinese}{b}等于{result}。", short=f"{result}。"))
    return found
