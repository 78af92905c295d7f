"""A model of the kit that sees, beside the same one of transformers, and pictures to ask about."""

from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
import torch
import transformers
from PIL import Image

import llmapi_kit as kit
from llmapi_kit.checkpoints.vision_processor import load_processor
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Finished

from .conftest import collect

NUM_NEW = 10
SIZES = [(60, 40), (33, 64), (48, 48), (48, 40)]
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8))
    for i, (width, height) in enumerate(SIZES)
]


def url_of(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def message(*parts, role="user"):
    """A message of texts and numbers of pictures."""
    return {
        "role": role,
        "content": [text_part(part) if isinstance(part, str) else picture_part(part) for part in parts],
    }


def text_part(text):
    return {"type": "text", "text": text}


def picture_part(number):
    return {"type": "image_url", "image_url": {"url": url_of(PICTURES[number])}}


class Seeing:
    """A model of the kit beside the same one of transformers."""

    def __init__(self, folder):
        self.model = kit.load(folder, max_slots=4, context_length=512, step_tokens=48)
        self.engine = self.model.engine
        self.reference = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.reference.generation_config.eos_token_id = None  # both go on after a token that ends an answer
        self.processor = load_processor(str(folder), "reference")

    def request(self, messages, **sampling):
        params = SamplingParams(temperature=0, max_tokens=NUM_NEW, ignore_eos=True, **sampling)
        return GenerationRequest(messages=messages, sampling=params)

    def ask(self, *conversations, **sampling):
        """(text, tokens of the prompt, of which cached) of each, all asked at once."""

        async def gather():
            answers = [collect(self.engine.generate(self.request(each, **sampling))) for each in conversations]
            return await asyncio.gather(*answers)

        ends = [(text, next(e for e in events if isinstance(e, Finished))) for text, events in asyncio.run(gather())]
        return [(text, end.num_prompt_tokens, end.num_cached_tokens) for text, end in ends]

    @torch.inference_mode()
    def expected(self, messages):
        """(text, tokens of the prompt) by transformers."""
        plain, pictures = [], []
        for each in messages:
            content = each["content"] if isinstance(each["content"], list) else [text_part(each["content"])]
            pictures += [self._picture(part) for part in content if part["type"] == "image_url"]
            marked = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
            plain.append({**each, "content": marked})
        text = self.processor.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(text=[text], images=pictures or None, add_special_tokens=False, return_tensors="pt")
        made = self.reference.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)
        num_prompt = inputs["input_ids"].shape[1]
        return self.processor.tokenizer.decode(made[0, num_prompt:], skip_special_tokens=True), num_prompt

    def _picture(self, part):
        data = part["image_url"]["url"].partition(",")[2]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def check(self, *conversations):
        """They are answered together as each is by transformers."""
        seen = self.ask(*conversations)
        assert [each[:2] for each in seen] == [self.expected(each) for each in conversations]
        return [each[2] for each in seen]
