"""Every field of the openai client's requests is answered, or refused by name; none is ignored, none is forgotten."""

from __future__ import annotations

import openai
import pytest
from openai.types import Completion

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import serving

from .client_fields import ANSWERED, KNOWN, LEAST, REFUSED, REFUSED_VALUES, RESPONSES_TOGETHER, TOGETHER


@pytest.fixture(scope="module")
def server(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), pocket_engine, MockEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def strict(server):
    """The official client; whatever it gets is checked against its types."""
    with server.client(max_retries=0, _strict_response_validation=True) as made:
        yield made


@pytest.fixture(scope="module")
def loose(server):
    """The official client as it comes."""
    with server.client(max_retries=0) as made:
        yield made


def create(client, endpoint, **fields):
    """Send a request; a stream is read to its end."""
    method = {
        "chat": client.chat.completions.create,
        "completions": client.completions.create,
        "embeddings": client.embeddings.create,
        "images": client.images.generate,
        "responses": client.responses.create,
    }
    answer = method[endpoint](**{**LEAST[endpoint], **fields})
    return list(answer) if isinstance(answer, openai.Stream) else [answer]


def fields_of(endpoint, field):
    few = {"chat": {"max_tokens": 4}, "completions": {"max_tokens": 4}, "responses": {"max_output_tokens": 4}}
    few = {} if field == "max_completion_tokens" else few.get(endpoint, {})
    together = (
        {} if endpoint == "images" else (RESPONSES_TOGETHER if endpoint == "responses" else TOGETHER).get(field, {})
    )
    return {**few, **together, field: ANSWERED[endpoint][field]}


def cases(table, *endpoints, without=()):
    return [
        pytest.param(name, field, id=f"{name}-{field}")
        for name in endpoints or table
        for field in table[name]
        if field not in without
    ]


@pytest.mark.parametrize("endpoint", KNOWN)
def test_every_field_of_the_client_is_decided_on(endpoint):
    answered, refused = set(ANSWERED[endpoint]), set(REFUSED[endpoint])
    assert answered & refused == set()
    assert answered | refused == KNOWN[endpoint]


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "field"), cases(ANSWERED, without=("stream", "stream_options")))
def test_what_is_answered_fits_the_clients_types(strict, endpoint, field):
    answers = create(strict, endpoint, **fields_of(endpoint, field))
    if endpoint == "images":
        assert [bool(image.url or image.b64_json) for image in answers[0].data] == [True] * len(answers[0].data)
    else:
        assert [answer.model for answer in answers] == ["pocket"]


@pytest.mark.parametrize(("endpoint", "field"), cases(ANSWERED, "chat"))
def test_a_streamed_answer_fits_them_too(strict, endpoint, field):
    fields = {**fields_of(endpoint, field), "stream": True}
    chunks = create(strict, endpoint, **fields)
    assert {chunk.model for chunk in chunks} == {"pocket"}


@pytest.mark.parametrize(("endpoint", "field"), cases(ANSWERED, "responses", without=("stream",)))
def test_a_streamed_response_fits_them_too(strict, endpoint, field):
    fields = {**fields_of(endpoint, field), "stream": True}
    events = create(strict, endpoint, **fields)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.model == "pocket"


@pytest.mark.parametrize(("endpoint", "field"), cases(ANSWERED, "completions", without=("best_of",)))
def test_a_streamed_completion_fits_them_but_for_its_open_end(loose, endpoint, field):
    # Until the last chunk finish_reason is null, at OpenAI too; the client's type has no room for that
    fields = {**fields_of(endpoint, field), "stream": True}
    chunks = [chunk.model_dump() for chunk in create(loose, endpoint, **fields)]
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert ends[-1] in ("stop", "length")
    for chunk in chunks:
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(chunk, strict=True)


REFUSALS = [(endpoint, {field: value}) for endpoint, fields in REFUSED.items() for field, value in fields.items()]


@pytest.mark.parametrize(("endpoint", "fields"), [*REFUSALS, *REFUSED_VALUES])
def test_what_is_refused_is_named(loose, endpoint, fields):
    (field,) = fields
    with pytest.raises(openai.BadRequestError) as refused:
        create(loose, endpoint, **fields)
    assert refused.value.param == field
    assert field in refused.value.message
