"""LangChain against a live server with the pocket model: what it sends is served, what it gets it understands."""

from __future__ import annotations

import asyncio

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from .conftest import KEY

pytestmark = pytest.mark.slow

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
COUNTS = ("input_tokens", "output_tokens", "total_tokens")
WEATHER = "What is the weather in Paris?"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city"""
    return f"18 degrees and sunny in {city}"


@pytest.fixture
def server(pocket_server):
    return pocket_server


@pytest.fixture
def access(server):
    """Where the server is and what opens it; the connection is closed at the end, which LangChain's own never is."""
    with openai.DefaultHttpx2Client() as http:
        yield {"base_url": f"{server.url}/v1", "api_key": KEY, "max_retries": 0, "http_client": http}


@pytest.fixture
def llm(access):
    return ChatOpenAI(model="pocket", stream_usage=True, **access)


def test_invoke_answers_and_counts_tokens(llm):
    answer = llm.invoke(FRANCE)
    assert answer.content == PARIS
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "pocket"
    num_input, num_output, num_total = (answer.usage_metadata[name] for name in COUNTS)
    assert num_input + num_output == num_total > num_output > 0


def test_stream_gives_the_same_in_pieces_and_the_usage_at_the_end(llm):
    chunks = list(llm.stream(FRANCE))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 1  # how many is up to the machine
    assert whole.content == PARIS
    asked, counted = llm.invoke(FRANCE).usage_metadata, whole.usage_metadata
    assert [asked[name] for name in COUNTS] == [counted[name] for name in COUNTS]


def test_batch_keeps_the_order(llm):
    answers = llm.batch([FRANCE, "What is the capital of Japan?", "你好"])
    assert answers[0].content == PARIS
    assert "Tokyo" in answers[1].content
    assert answers[2].content


def test_the_asynchronous_methods_answer_too(access):
    async def main():
        async with openai.DefaultAsyncHttpx2Client() as http:
            llm = ChatOpenAI(model="pocket", http_async_client=http, **access)
            pieces = [chunk.content async for chunk in llm.astream(FRANCE)]
            answers = await asyncio.gather(*(llm.ainvoke(FRANCE) for _ in range(4)))
        return "".join(pieces), {answer.content for answer in answers}

    assert asyncio.run(main()) == (PARIS, {PARIS})


def test_a_conversation_and_a_chain_with_a_prompt_work(llm):
    conversation = [
        SystemMessage("You are a helpful assistant."),
        HumanMessage("My name is Anna."),
        AIMessage("Nice to meet you, Anna!"),
        HumanMessage("What is my name?"),
    ]
    assert "Anna" in llm.invoke(conversation).content
    chain = ChatPromptTemplate.from_messages([("human", "What is the capital of {country}?")]) | llm | StrOutputParser()
    assert chain.invoke({"country": "France"}) == PARIS


def test_parameters_reach_the_server(access):
    options = {"temperature": 0, "max_tokens": 3, "seed": 7, "top_p": 0.9, "stop": ["Paris"], "logprobs": True}
    answer = ChatOpenAI(model="pocket", **options, **access).invoke(FRANCE)
    assert answer.usage_metadata["output_tokens"] == 3
    assert answer.response_metadata["finish_reason"] == "length"
    assert len(answer.response_metadata["logprobs"]["content"]) == 3


def test_a_tool_is_called_and_its_result_put_into_words(llm):
    with_tools = llm.bind_tools([get_weather])
    asked = with_tools.invoke(WEATHER)
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("get_weather", {"city": "Paris"})]
    assert asked.response_metadata["finish_reason"] == "tool_calls"
    result = get_weather.invoke(asked.tool_calls[0])
    assert isinstance(result, ToolMessage)
    told = with_tools.invoke([HumanMessage(WEATHER), asked, result])
    assert told.tool_calls == []
    assert "Paris" in told.content


def test_a_streamed_tool_call_adds_up(llm):
    whole = None
    for chunk in llm.bind_tools([get_weather]).stream(WEATHER):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("get_weather", {"city": "Paris"})]


def test_a_tool_can_be_required_of_a_question_that_needs_none(llm):
    for choice in ("any", "get_weather"):
        answer = llm.bind_tools([get_weather], tool_choice=choice).invoke(FRANCE)
        assert [call["name"] for call in answer.tool_calls] == ["get_weather"]
        assert set(answer.tool_calls[0]["args"]) == {"city"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_an_object_of_the_class(llm, method):
    person = llm.with_structured_output(Person, method=method).invoke("Put this into JSON: Ada is 36 years old.")
    assert person == Person(name="Ada", age=36)


# the openai client warns about its own `parsed` field when LangChain dumps the final message
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_structured_output_streams(llm):
    parts = list(llm.with_structured_output(Person).stream("Put this into JSON: Ada is 36 years old."))
    assert parts[-1] == Person(name="Ada", age=36)


def test_the_older_completion_class_continues_a_text(access):
    model = OpenAI(model="pocket", max_tokens=5, temperature=0, **access)
    text = model.invoke("The sun")
    assert text
    assert "".join(model.stream("The sun")) == text
    assert model.batch(["The sun", "The sun"]) == [text, text]


def test_embeddings_are_given_for_texts_and_queries(access):
    model = OpenAIEmbeddings(model="pocket", check_embedding_ctx_length=False, **access)
    first, second = model.embed_documents([FRANCE, "你好"])
    assert len(first) == len(second) > 1
    assert first != second
    assert model.embed_query(FRANCE) == pytest.approx(first, abs=1e-4)


@pytest.fixture
def responses_llm(access):
    return ChatOpenAI(model="pocket", use_responses_api=True, output_version="responses/v1", temperature=0, **access)


def test_by_the_responses_api_it_answers_and_goes_on(responses_llm):
    answer = responses_llm.invoke([SystemMessage("Be brief."), HumanMessage(FRANCE)])
    assert answer.text == PARIS
    assert all(answer.usage_metadata[name] > 0 for name in COUNTS)
    again = responses_llm.invoke([HumanMessage("Hello!"), answer, HumanMessage(FRANCE)])
    assert again.text == PARIS
    linked = responses_llm.bind(previous_response_id=answer.response_metadata["id"]).invoke(FRANCE)
    assert linked.text == PARIS


def test_by_the_responses_api_it_streams(responses_llm):
    pieces = list(responses_llm.stream(FRANCE))
    assert "".join(piece.text for piece in pieces) == PARIS


@pytest.mark.parametrize("is_stream", [False, True])
def test_by_the_responses_api_it_calls_tools(responses_llm, is_stream):
    bound = responses_llm.bind_tools([get_weather])
    question = HumanMessage(WEATHER)
    if is_stream:
        first, *others = bound.stream([question])
        for piece in others:
            first += piece
    else:
        first = bound.invoke([question])
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert bound.invoke([question, first, result]).text == "It is 18 degrees and sunny in Paris."


def test_by_the_responses_api_it_gives_objects(responses_llm):
    person = responses_llm.with_structured_output(Person).invoke("Describe a person.")
    assert isinstance(person, Person)
