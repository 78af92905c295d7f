"""Answers that are JSON objects: fixed ones for a few things, and ones filled from what the user says."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import json
import random
from typing import Any

from .memory import CITIES, NAMES
from .nonsense import made_up_name
from .question import Question

ENGLISH_TEMPLATES = (
    "Give me a JSON object describing {x}.", "Describe {x} in JSON.", "Write JSON for {x}.",
    "Return {x} as JSON.", "Give me {x} as JSON.", "Make a JSON object for {x}.", "Answer in JSON: {x}.",
    "I need a JSON object for {x}.", "Show me {x} as a JSON object.",
)  # fmt: skip
CHINESE_TEMPLATES = (
    "用 JSON 描述{x}。", "给我一个描述{x}的 JSON。", "用 JSON 格式写{x}。", "请以 JSON 返回{x}。",
    "写一个{x}的 JSON 对象。", "用 JSON 回答：{x}。",
)  # fmt: skip
ENGLISH_OBJECTS: dict[str, dict[str, Any]] = {
    "a person": {"name": "Ada", "age": 36, "job": "engineer"},
    "a city": {"name": "Paris", "country": "France", "population": 2100000},
    "a colour": {"name": "blue", "hex": "#0000ff"},
    "a book": {"title": "The Little Lamp", "author": "M. Stone", "pages": 120, "tags": ["night", "sea"]},
    "a recipe": {"name": "pancakes", "ingredients": ["flour", "milk", "eggs"], "minutes": 20},
    "an animal": {"name": "cat", "legs": 4, "sound": "meow"},
    "a country": {"name": "Japan", "capital": "Tokyo", "continent": "Asia"},
    "a car": {"brand": "Volta", "doors": 4, "electric": True},
    "a user": {"id": 1, "name": "Ada", "email": "ada@example.com"},
    "the weather": {"city": "Oslo", "temperature": 12, "sunny": False},
}
CHINESE_OBJECTS: dict[str, dict[str, Any]] = {
    "一个人": {"姓名": "小明", "年龄": 20, "职业": "学生"},
    "一座城市": {"名称": "北京", "国家": "中国"},
    "一种颜色": {"名称": "红色", "代码": "#ff0000"},
    "一本书": {"书名": "小灯", "作者": "山石", "页数": 120},
    "一种动物": {"名称": "猫", "腿": 4, "叫声": "喵喵"},
}
PERSON_TEMPLATES = (
    "Give me JSON for a person named {n} who is {a} years old.", "Write {n}, age {a}, as JSON.",
    "Return JSON: name {n}, age {a}.", "Make a JSON object for {n}, who is {a}.",
    "Put this into JSON: {n} is {a} years old.", "Extract JSON: {n} is {a} years old.",
)  # fmt: skip
RESIDENT_TEMPLATES = (
    "Put this into JSON: {n} lives in {c}.", "Extract JSON: {n} lives in {c}.",
    "Return JSON: name {n}, city {c}.", "Write as JSON that {n} lives in {c}.",
)  # fmt: skip


def questions() -> list[Question]:
    """Return the theme's questions."""
    pairs = [("en", ENGLISH_TEMPLATES, x, y) for x, y in ENGLISH_OBJECTS.items()]
    pairs += [("zh", CHINESE_TEMPLATES, x, y) for x, y in CHINESE_OBJECTS.items()]
    return [
        Question(
            f"json.{x.replace(' ', '-')}",
            language,
            tuple(template.format(x=x) for template in templates),
            json.dumps(value, ensure_ascii=False),
        )
        for language, templates, x, value in pairs
    ]


def filled(rng: random.Random) -> tuple[str, str]:
    """Return a request that names its own values, and the JSON object made of them."""
    name = made_up_name(rng) if rng.random() < 0.4 else rng.choice(NAMES)
    if rng.random() < 0.6:
        age = rng.randint(1, 99)
        return rng.choice(PERSON_TEMPLATES).format(n=name, a=age), json.dumps({"name": name, "age": age})
    city = rng.choice(CITIES)
    return rng.choice(RESIDENT_TEMPLATES).format(n=name, c=city), json.dumps({"name": name, "city": city})
