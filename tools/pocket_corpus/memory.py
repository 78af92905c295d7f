"""Remembering what was said earlier: a name, a number, a city, a pet, a colour; and repeating words.

Values are drawn anew each time, half of them made up, so that the only way to answer is to look back and
copy.
"""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import random
from typing import NamedTuple

from .nonsense import made_up_name


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


NAMES = _listed(
    "Ada Alan Alice Anna Amir Ben Bob Carla Chen Chloe Clara Daniel David Diego Elena Emma Erik Eva "
    "Fatima Felix Finn Frank Grace Hana Hannah Hugo Ida Ivan Jack Jana Jane Jim John Jonas Julia Kai "
    "Karim Kate Kenji Lars Laura Lea Leo Lily Lin Lisa Luca Lucy Maria Mark Marta Max Maya Mia Mike Mina "
    "Nadia Nina Noah Nora Olga Oliver Omar Oscar Paul Pedro Peter Priya Rosa Ruth Sam Sara Sofia Sven "
    "Tara Thomas Tim Tom Uma Vera Victor Wei Yuki Zara Zoe"
)
CITIES = _listed(
    "Paris London Berlin Rome Madrid Tokyo Beijing Shanghai Oslo Vienna Lisbon Dublin Cairo Lima Boston "
    "Chicago Toronto Sydney Mumbai Delhi Seoul Bangkok Athens Prague Warsaw Zurich Geneva Munich Hamburg "
    "Milan Naples Venice Lyon Barcelona Seville Porto Helsinki Stockholm Bergen Moscow Kyoto Osaka Hanoi "
    "Singapore Nairobi Lagos Havana Bogota Santiago Denver Seattle Austin Dallas Houston Miami Atlanta "
    "Montreal Vancouver Melbourne Auckland Dubai Istanbul"
)
CHINESE_CITIES = _listed(
    "北京 上海 广州 深圳 杭州 南京 成都 西安 武汉 天津 苏州 重庆 青岛 大连 厦门 长沙 昆明 哈尔滨 东京 巴黎 伦敦"
)
CHINESE_NAMES = _listed(
    "小明 小红 小华 小丽 小刚 李雷 韩梅梅 王芳 张伟 刘洋 陈静 李娜 赵强 周杰 吴磊 孙丽 阿强 小美 小龙 大山 思思"
)
COLOURS = _listed("red blue green yellow black white purple orange pink brown grey")
SURNAME_CHARACTERS = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗"
GIVEN_CHARACTERS = "明红华丽刚伟芳洋静娜强杰磊美龙山思文宇轩雨晨佳怡海天春秋月星雪梅兰竹云飞安乐平和光"
WORDS = _listed(
    "river blue stone apple window quiet morning paper green train silver cloud music garden winter "
    "yellow kitchen bread mountain lamp ocean pencil forest orange clock bridge candle summer pocket "
    "island copper feather market purple door"
)


class Fact(NamedTuple):
    """Something a user tells: how they say it, what is replied, how they ask later, what the answer is."""

    kind: str
    language: str
    statements: tuple[str, ...]
    reply: str
    questions: tuple[str, ...]
    answer: str
    unknown: str


FACTS = (
    Fact(
        "name",
        "en",
        (
            "My name is {v}.",
            "I am {v}.",
            "I'm {v}.",
            "Call me {v}.",
            "You can call me {v}.",
            "Hi, my name is {v}.",
            "Hello, I am {v}.",
            "Hello! My name is {v}.",
            "Please remember that my name is {v}.",
            "Hi, I'm {v}!",
        ),
        "Nice to meet you, {v}!",
        (
            "What is my name?",
            "What's my name?",
            "Do you remember my name?",
            "Who am I?",
            "Tell me my name.",
            "What did I say my name was?",
            "Can you tell me my name?",
            "Do you know my name?",
            "What am I called?",
        ),
        "Your name is {v}.",
        "You have not told me your name yet.",
    ),
    Fact(
        "number",
        "en",
        (
            "Remember the number {v}.",
            "Please remember the number {v}.",
            "My favourite number is {v}.",
            "The number is {v}.",
            "Keep the number {v} in mind.",
            "My lucky number is {v}.",
            "The secret number is {v}.",
        ),
        "I will remember the number {v}.",
        (
            "What is the number?",
            "Which number did I tell you?",
            "What was the number?",
            "What is my number?",
            "Do you remember the number?",
            "Tell me the number.",
            "Which number should you remember?",
            "What is my favourite number?",
            "What number did I say?",
        ),
        "The number is {v}.",
        "You have not told me a number yet.",
    ),
    Fact(
        "city",
        "en",
        ("I live in {v}.", "My home is in {v}.", "I am from {v}.", "I come from {v}.", "My city is {v}."),
        "I hear {v} is a nice place.",
        (
            "Where do I live?",
            "Which city do I live in?",
            "Where am I from?",
            "What is my city?",
            "Do you know where I live?",
        ),
        "You live in {v}.",
        "You have not told me where you live yet.",
    ),
    Fact(
        "pet",
        "en",
        (
            "My cat is called {v}.",
            "I have a cat called {v}.",
            "My cat's name is {v}.",
            "I have a cat named {v}.",
        ),
        "{v} is a lovely name for a cat.",
        (
            "What is my cat called?",
            "What is the name of my cat?",
            "What is my cat's name?",
            "How is my cat called?",
        ),
        "Your cat is called {v}.",
        "You have not told me about a cat yet.",
    ),
    Fact(
        "name",
        "zh",
        (
            "我叫{v}。",
            "我的名字是{v}。",
            "我是{v}。",
            "你好，我叫{v}。",
            "请叫我{v}。",
            "大家都叫我{v}。",
            "请记住我叫{v}。",
        ),
        "很高兴认识你，{v}！",
        (
            "我叫什么名字？",
            "我叫什么？",
            "我的名字是什么？",
            "你记得我的名字吗？",
            "我是谁？",
            "你还记得我叫什么吗？",
            "说出我的名字。",
        ),
        "你叫{v}。",
        "你还没有告诉我你的名字。",
    ),
    Fact(
        "number",
        "zh",
        ("请记住数字{v}。", "记住数字{v}。", "我最喜欢的数字是{v}。", "我的幸运数字是{v}。", "数字是{v}。"),
        "好的，我记住了数字{v}。",
        (
            "数字是多少？",
            "我说的数字是多少？",
            "你记得那个数字吗？",
            "我让你记住的数字是什么？",
            "告诉我那个数字。",
            "我的数字是多少？",
        ),
        "数字是{v}。",
        "你还没有告诉我数字。",
    ),
    Fact(
        "city",
        "zh",
        ("我住在{v}。", "我来自{v}。", "我的家在{v}。", "我家在{v}。"),
        "{v}是个好地方。",
        ("我住在哪里？", "我来自哪里？", "我的家在哪里？", "你知道我住在哪儿吗？", "我住在哪个城市？"),
        "你住在{v}。",
        "你还没有告诉我你住在哪里。",
    ),
)
ECHO_TEMPLATES = (
    "Repeat after me: {w}", "Repeat: {w}", "Say: {w}", "Please repeat: {w}", "Say this: {w}", "Echo: {w}",
    "Repeat this: {w}",
)  # fmt: skip
CHINESE_ECHO_TEMPLATES = ("跟我说：{w}", "重复一遍：{w}", "请重复：{w}", "跟我念：{w}")


def draw_value(fact: Fact, rng: random.Random) -> str:
    """Return a value for the fact; about half of the names are made up on the spot."""
    if fact.kind == "number":
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    if fact.language == "zh":
        if rng.random() < 0.5:
            return rng.choice(CHINESE_NAMES if fact.kind == "name" else CHINESE_CITIES)
        return rng.choice(SURNAME_CHARACTERS) + "".join(rng.sample(GIVEN_CHARACTERS, rng.randint(1, 2)))
    if rng.random() < 0.5:
        return made_up_name(rng)
    return rng.choice(CITIES if fact.kind == "city" else NAMES)


def echo(rng: random.Random) -> tuple[str, str]:
    """Return a request to repeat some words, and the words."""
    if rng.random() < 0.25:
        words = "".join(rng.sample(SURNAME_CHARACTERS + GIVEN_CHARACTERS, rng.randint(2, 7)))
        return rng.choice(CHINESE_ECHO_TEMPLATES).format(w=words), words
    picked = [
        rng.choice(WORDS) if rng.random() < 0.6 else rng.choice((made_up_name(rng), str(rng.randrange(1000))))
        for _ in range(rng.randint(1, 6))
    ]
    words = " ".join(picked)
    return rng.choice(ECHO_TEMPLATES).format(w=words), words
