"""Eighty random JSON schemas and the pocket model: every complete answer parses and validates."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Finished
from tests.sampling.schemas import schemas

from .conftest import collect

pytestmark = pytest.mark.slow

ASKED = [{"role": "user", "content": "Give me a JSON object describing a person."}]
BATCH = 20


async def answer(engine, schema, seed):
    """(text, whether it is complete) under a schema; half of the requests are greedy."""
    sampling = SamplingParams(
        temperature=seed % 2,
        seed=seed,
        max_tokens=250,
        constraint=Constraint("json_schema", json.dumps(schema), "response_format"),
    )
    text, events = await collect(engine.generate(GenerationRequest(messages=ASKED, sampling=sampling)))
    assert isinstance(events[-1], Finished), events[-1]
    return text, events[-1].reason == "stop"


def test_every_complete_answer_validates(pocket_engine):
    """Most are complete, taken together: in a single batch chance may have it otherwise."""
    completed = []

    @settings(max_examples=80 // BATCH, derandomize=True)
    @given(batch=st.lists(schemas(), min_size=BATCH, max_size=BATCH))
    def check(batch):
        # At most four grammars may wait to be compiled: more at once are refused
        async def main():
            turns = asyncio.Semaphore(4)

            async def one(schema, seed):
                async with turns:
                    return await answer(pocket_engine, schema, seed)

            return await asyncio.gather(*(one(schema, seed) for seed, schema in enumerate(batch)))

        answers = asyncio.run(main())
        for schema, (text, is_complete) in zip(batch, answers, strict=True):
            if is_complete:
                jsonschema.Draft202012Validator(schema).validate(json.loads(text, parse_float=Decimal))
        completed.extend(is_complete for _, is_complete in answers)

    check()
    assert len(completed) >= 80
    assert sum(completed) >= len(completed) // 2
