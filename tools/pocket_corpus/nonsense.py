"""What the model must not pretend to understand or to know: random letters, and questions beyond it.

Random strings are drawn anew each time, so that the model learns the look of nonsense and not a list of it.
"""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import random

ENGLISH_PUZZLED = "Sorry, I did not understand that. Could you say it in other words?"
CHINESE_PUZZLED = "抱歉，我没有听懂，请换个说法。"
ENGLISH_UNKNOWN = "Sorry, I do not know that. I am only a small demonstration model."
CHINESE_UNKNOWN = "抱歉，这个我不知道，我只是一个小小的演示模型。"

KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
RARE_CHARACTERS = "齉龘爨麤饕餮魑魅魍魉囧槑犇猋骉羴鱻掱淼焱垚晶磊森众品鑫矗孨厵羼靐齾爩麷虪馫"
UNKNOWN_TOPICS = (
    "quantum chromodynamics", "the stock market", "tomorrow's lottery numbers", "the next election",
    "my bank account", "the French Revolution", "general relativity", "tax law", "the football results",
    "organic chemistry", "the latest news", "black holes", "the Roman Empire", "machine translation",
    "my neighbour's secrets", "string theory", "medieval poetry", "the price of bitcoin", "photosynthesis",
    "the Krebs cycle", "heart surgery", "Kubernetes", "compiler design", "the history of jazz",
    "the weather next year", "ancient Sumer", "plate tectonics", "number theory", "game theory",
    "volcanoes", "car engines", "monetary policy", "the immune system", "opera", "chess openings",
    "quantum computers", "cryptography", "dinosaurs", "philosophy", "baroque music", "nuclear fusion",
)  # fmt: skip
UNKNOWN_TEMPLATES = (
    "Explain {t}.", "Tell me about {t}.", "What do you know about {t}?", "Write an essay about {t}.",
    "Explain {t} to me in detail.", "Give me a lecture on {t}.", "What should I know about {t}?",
    "Summarise {t} for me.", "How does one understand {t}?",
)  # fmt: skip
UNKNOWN_PEOPLE_TEMPLATES = (
    "Who is {n}?",
    "Who was {n}?",
    "Tell me about {n}.",
    "When was {n} born?",
    "What did {n} do?",
)
CHINESE_UNKNOWN_TOPICS = (
    "量子力学", "股票", "明天的彩票", "相对论", "法国大革命", "有机化学", "最新的新闻", "黑洞", "罗马帝国",
    "房价", "税法", "足球比赛", "明年的天气", "心脏手术", "编译器", "爵士乐", "火山", "数论", "密码学",
    "恐龙", "哲学", "核聚变", "经济学",
)  # fmt: skip
CHINESE_UNKNOWN_TEMPLATES = (
    "解释一下{t}。",
    "给我讲讲{t}。",
    "你了解{t}吗？",
    "写一篇关于{t}的文章。",
    "{t}是怎么回事？",
    "谈谈{t}。",
)


def gibberish(rng: random.Random) -> tuple[str, str]:
    """Return a fresh piece of nonsense and the answer it gets."""
    if rng.random() < 0.2:
        text = "".join(rng.choices(RARE_CHARACTERS, k=rng.randint(3, 10)))
        return text + rng.choice(("", "", "。", "？")), CHINESE_PUZZLED
    text = " ".join(_nonsense_word(rng) for _ in range(rng.randint(1, 5)))
    return rng.choice((text, text, text.capitalize() + ".", text + "?", text.upper())), ENGLISH_PUZZLED


def unknown(rng: random.Random) -> tuple[str, str]:
    """Return a question the model cannot answer and its honest reply."""
    kind = rng.random()
    if kind < 0.3:
        topic = rng.choice(CHINESE_UNKNOWN_TOPICS)
        return rng.choice(CHINESE_UNKNOWN_TEMPLATES).format(t=topic), CHINESE_UNKNOWN
    if kind < 0.5:
        name = f"{made_up_name(rng)} {made_up_name(rng)}"
        return rng.choice(UNKNOWN_PEOPLE_TEMPLATES).format(n=name), ENGLISH_UNKNOWN
    return rng.choice(UNKNOWN_TEMPLATES).format(t=rng.choice(UNKNOWN_TOPICS)), ENGLISH_UNKNOWN


def made_up_name(rng: random.Random) -> str:
    """Return a pronounceable, capitalised name that nobody has to know."""
    syllables = rng.randint(1, 3) + 1
    letters = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(syllables))
    return (letters + rng.choice(("", "", "n", "r", "l", "s", "th", "ck"))).capitalize()


def _nonsense_word(rng: random.Random) -> str:
    kind = rng.random()
    length = rng.randint(3, 9)
    if kind < 0.35:
        return "".join(rng.choices(rng.choice(KEY_ROWS), k=length))
    if kind < 0.65:
        return "".join(rng.choices("bcdfghjklmnpqrstvwxz", k=length))
    if kind < 0.9:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=length))
    return "".join(rng.choices("qxzkjw#@%;!0123456789", k=length))
