"""The pocket-vision model answers for drawings that it was not trained on: from code, in a batch, and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image, ImageDraw

import llmapi_kit as kit
from llmapi_kit.checkpoints.spec import POCKET_VISION_DIR
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.server.server import Server
from llmapi_kit.types import Delta
from tests.api.conftest import KEY, load_settings

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from pocket_drawings.examination import cases

pytestmark = pytest.mark.slow

GREEDY = {"temperature": 0, "max_tokens": 40}
QUESTION = "What is in the picture?"
ANSWER = "A red circle and a blue square."
NUM_IMAGE_TOKENS = 36
# Of questions about drawings, all together and of each kind; the model's card has the shares of many more
LEAST, LEAST_OF_A_KIND = 0.9, 0.75


def drawing(side=240):
    """A red circle at the top left and a blue square at the right."""
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse([side * share for share in (0.05, 0.05, 0.3, 0.3)], fill="red")
    pen.rectangle([side * share for share in (0.7, 0.38, 0.95, 0.62)], fill="blue")
    return picture


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def url_of(picture):
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def asking(question, picture=None, *, picture_last=False):
    parts = [{"type": "text", "text": question}]
    if picture is not None:
        parts.insert(len(parts) if picture_last else 0, {"type": "image_url", "image_url": {"url": url_of(picture)}})
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def model():
    model = kit.load("pocket-vision", max_slots=16, context_length=512, max_queue=256)
    yield model
    model.close()


@pytest.fixture(scope="module")
def client(model, tmp_path_factory):
    settings = load_settings(home=tmp_path_factory.mktemp("home"))
    server = Server([model.engine], host="127.0.0.1", port=0, api_key=KEY, settings=settings)
    server.start()
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
        yield client
    server.stop(drain_s=0)


async def answer(engine, messages):
    request = GenerationRequest(messages=messages, sampling=SamplingParams(**GREEDY))
    return "".join([event.text async for event in engine.generate(request) if isinstance(event, Delta)])


def test_it_answers_for_drawings_that_it_was_not_trained_on(model):
    """All at once, so that the answers are those of a batch."""
    exam = cases(20)

    async def gather():
        asked = (asking(case.question, case.drawing and case.drawing.image) for case in exam)
        return await asyncio.gather(*(answer(model.engine, messages) for messages in asked))

    right = defaultdict(list)
    for case, said in zip(exam, asyncio.run(gather()), strict=True):
        right[case.kind].append(said == case.answer)
    shares = {kind: sum(marks) / len(marks) for kind, marks in right.items()}
    assert min(shares.values()) >= LEAST_OF_A_KIND, shares
    about_drawings = [mark for kind, marks in right.items() if kind != "no picture" for mark in marks]
    assert sum(about_drawings) / len(about_drawings) >= LEAST, shares


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (QUESTION, ANSWER),
        ("How many shapes are there?", "Two."),
        ("What colour is the square?", "Blue."),
        ("What is at the right?", "A blue square."),
        ("Is there a green star?", "No."),
    ],
)
def test_a_cell_asks_about_what_it_drew(model, question, said):
    assert model.ask(question, images=[drawing()], **GREEDY) == said


@pytest.mark.parametrize("form", ["path", "bytes", "array", "url", "large", "flat"])
def test_it_is_the_same_picture_in_every_form(model, form, tmp_path):
    picture = drawing()
    (tmp_path / "drawing.png").write_bytes(png(picture))
    forms = {
        "path": tmp_path / "drawing.png",
        "bytes": png(picture),
        "array": np.asarray(picture),
        "url": url_of(picture),
        "large": drawing(1000),
        "flat": picture.resize((300, 200)),
    }
    assert model.ask(QUESTION, images=[forms[form]], **GREEDY) == ANSWER


def test_without_a_picture_it_says_so(model):
    assert model.ask(QUESTION, **GREEDY) == "I see no picture. Please send me one."
    assert model.ask("Who are you?", **GREEDY) == "I am pocket-vision, a very small model that looks at drawings."


@pytest.mark.parametrize("picture_last", [False, True])
def test_the_sdk_gets_the_answer_whole_and_streamed(client, picture_last):
    messages = asking(QUESTION, drawing(), picture_last=picture_last)
    options = {"model": "pocket-vision", "messages": messages, **GREEDY}
    whole = client.chat.completions.create(**options)
    streamed = client.chat.completions.create(**options, stream=True)
    assert whole.choices[0].message.content == ANSWER
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == ANSWER
    text = client.chat.completions.create(model="pocket-vision", messages=asking(QUESTION), **GREEDY)
    assert whole.usage.prompt_tokens - text.usage.prompt_tokens == NUM_IMAGE_TOKENS


def test_a_later_question_is_about_the_picture_before_it(client):
    messages = [
        *asking(QUESTION, drawing()),
        {"role": "assistant", "content": ANSWER},
        *asking("How many shapes are there?"),
    ]
    completion = client.chat.completions.create(model="pocket-vision", messages=messages, **GREEDY)
    assert completion.choices[0].message.content == "Two."


def test_it_is_small():
    assert sum(file.stat().st_size for file in POCKET_VISION_DIR.iterdir()) < 8_000_000
