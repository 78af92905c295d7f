"""What the engine needs of a tokenizer: special tokens, templates and their variables, fill-in-the-middle."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.tokenizer import INFILL_TOKENS, LONG_TEXT, ModelTokenizer

from . import vocabularies

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(POCKET_DIR)


def shown(codec, ids):
    detokenizer = codec.detokenizer()
    return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()


def test_special_tokens_are_hidden_unless_they_mark_a_part_of_the_answer(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[OTHER]"]})
    codec = ModelTokenizer(tokenizer, markers=("[TOOL_CALLS]", "<never there>"))
    ids = codec.encode("a[TOOL_CALLS]b[OTHER]c<|im_end|>", add_special_tokens=False)
    assert shown(codec, ids) == "a[TOOL_CALLS]bc"
    assert codec.decode(ids) == "a[TOOL_CALLS]b[OTHER]c<|im_end|>"
    assert codec.added_tokens["[OTHER]"] in ids


def test_the_same_holds_for_vocabularies_without_bytes():
    tokenizer = vocabularies.sentencepiece()
    codec = ModelTokenizer(tokenizer)
    ids = codec.encode("the name", add_special_tokens=False)
    assert shown(codec, [*ids, tokenizer.eos_token_id]) == "the name"


def shown_ids(codec, text):
    """Without <unk>, which a vocabulary without bytes has for some characters, and which is hidden."""
    return [i for i in codec.encode(text, add_special_tokens=False) if codec.token_bytes(i)]


CONTINUED = [
    ("the quick", " brown fox"),
    ("the name", " and value, the 世界 🙂"),
    ("a", "b"),
    ("  two spaces", "  and two"),
    ("", " begins"),
    ("世", "界 the"),
]


@pytest.mark.parametrize(("prompt", "answer"), CONTINUED)
@pytest.mark.parametrize("vocabulary", ["pocket", "sentencepiece", "metaspace"])
def test_prompt_and_answer_join_to_the_text_of_both(vocabulary, prompt, answer):
    codec = ModelTokenizer(getattr(vocabularies, vocabulary)())
    ids = shown_ids(codec, prompt + answer)
    num_prompt = len(codec.encode(prompt, add_special_tokens=False))
    detokenizer = codec.detokenizer(context_ids=ids[:num_prompt][-8:])
    shown = "".join(map(detokenizer.feed, ids[num_prompt:])) + detokenizer.flush()
    assert codec.decode(ids[:num_prompt]) + shown == codec.decode(ids)


@pytest.mark.parametrize(("prompt", "answer"), CONTINUED)
@pytest.mark.parametrize("vocabulary", ["pocket", "sentencepiece", "metaspace", "wordpiece"])
def test_the_bytes_of_tokens_join_to_their_text(vocabulary, prompt, answer):
    codec = ModelTokenizer(getattr(vocabularies, vocabulary)())
    text = "a ab abb a" if vocabulary == "wordpiece" else prompt + answer
    ids = shown_ids(codec, text)
    raw = [codec.token_bytes(token_id, begins_text=i == 0) for i, token_id in enumerate(ids)]
    assert b"".join(raw).decode() == codec.decode(ids)


class WithoutTheGil:
    """A backend without the calls that keep the GIL for as long as they take."""

    def __init__(self, backend):
        self.encode_batch_fast = backend.encode_batch_fast
        self.decode_batch = backend.decode_batch


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_long_texts_are_the_same_ids_and_texts_without_the_gil(tokenizer, kind):
    """Thirty of two megabytes each had every other request of the process wait for half a minute."""
    made = ModelTokenizer(tokenizer if kind == "byte-level" else vocabularies.sentencepiece())
    text = "the name <|im_end|> of 10 cats \n" * 1000
    for add in (True, False):
        expected = list(made.backend_tokenizer.encode(text, add_special_tokens=add).ids)
        whole = made.backend_tokenizer.decode(expected, skip_special_tokens=False)
        codec = ModelTokenizer(made._tokenizer)
        codec._backend = WithoutTheGil(made.backend_tokenizer)
        assert len(text) > LONG_TEXT < len(expected)
        assert codec.encode(text, add_special_tokens=add) == expected
        assert codec.decode(expected) == whole


@pytest.mark.parametrize("names", INFILL_TOKENS)
def test_what_stands_between_two_texts_is_asked_for_in_the_models_own_order(tokenizer, names):
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    codec = ModelTokenizer(tokenizer)
    before, between, after = names
    ids = codec.encode_infill("def f(x):\n", "\n    return y")
    assert codec.decode(ids) == f"{before}def f(x):\n{between}\n    return y{after}"
    assert [i for i in ids if i in codec.added_tokens.values()] == [codec.added_tokens[name] for name in names]


def test_a_vocabulary_without_such_tokens_refuses_a_suffix_by_name(tokenizer):
    with pytest.raises(UnsupportedFieldError) as caught:
        ModelTokenizer(tokenizer).encode_infill("a", "b")
    assert caught.value.param == "suffix"


def test_a_templates_variables_are_those_it_reads_and_does_not_set(tokenizer):
    tokenizer.chat_template = (
        "{% set mine = 1 %}{% for m in messages %}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
        "{% if enable_thinking %}{{ mine }}{% endif %}{%- generation -%}{{ bos_token }}{%- endgeneration -%}"
    )
    assert ModelTokenizer(tokenizer).template_variables == {"messages", "enable_thinking", "bos_token"}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, "no chat template"),
        ("{% if %}", "can't render"),
        ("{{ raise_exception('only two turns') }}", "only two turns"),
        ("{{ messages.__class__.__mro__ }}", "can't render"),
    ],
)
def test_a_template_that_can_not_render_says_so_and_names_the_messages(tokenizer, template, problem):
    tokenizer.chat_template = template
    codec = ModelTokenizer(tokenizer)
    assert isinstance(codec.template_variables, frozenset)
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        codec.render_chat(HELLO, {})
    assert caught.value.param == "messages"
