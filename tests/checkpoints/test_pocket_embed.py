"""The embedding model that ships with the kit: small, and it knows which texts are about the same thing."""

from __future__ import annotations

import pytest

from llmapi_kit import kit
from llmapi_kit.checkpoints.spec import POCKET_EMBED_DIR

# A text, one about the same thing, and others
NEARER = [
    ("How do I reset my password?", "I forgot my password and can't log in", "The train to London leaves at noon"),
    ("What do pandas eat?", "Pandas live in China and like bamboo", "Taxes rose again last year"),
    ("The company's profits fell sharply", "Earnings of the firm dropped", "We swam in the lake"),
    ("The doctor treated the patient", "a nurse in the hospital", "the football team won"),
    ("I lost my credit card", "我的信用卡丢了", "The weather is cold"),
    ("怎么重置密码", "我忘记密码了 登录不了", "法国的首都是巴黎"),
    ("今天天气怎么样", "明天会下雨吗", "这本小说的作者是谁"),
    ("机器学习", "machine learning", "a cheap hotel"),
    ("苹果和香蕉", "apples and bananas", "the war in Europe"),
]


@pytest.fixture(scope="module")
def model():
    made = kit.load("pocket-embed")
    yield made
    kit.stop_all()


@pytest.mark.parametrize(("text", "near", "far"), NEARER)
def test_a_text_about_the_same_thing_is_nearer(model, text, near, far):
    best, worst = model.rerank(text, [far, near])
    assert best.text == near
    assert best.score > worst.score + 0.1


def test_it_is_small_and_says_what_it_is(model):
    assert sum(file.stat().st_size for file in POCKET_EMBED_DIR.iterdir()) < 3_000_000
    assert f"{model.info.num_parameters // 128:,} word vectors" in (POCKET_EMBED_DIR / "README.md").read_text()
    assert model.info.capabilities == ("embeddings", "dimensions", "rerank")
    assert model.info.embedding_sizes == (32, 64, 128)


def test_a_text_without_a_known_word_has_a_vector_of_zeros(model):
    assert set(model.embed("☃")) == {0.0}
    assert set(model.embed("")) == {0.0}
