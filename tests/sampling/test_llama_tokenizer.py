"""Token ids, pieces and texts are llama.cpp's own, whatever is in a text; templates are rendered in the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import pytest
import transformers

from llmapi_kit.checkpoints.gguf_file import open_gguf
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary, _cut
from llmapi_kit.sampling.encoding_cache import EncodingCache
from llmapi_kit.sampling.llama_tokenizer import LlamaTokenizer
from tests.runners.llama_files import write_tiny

pytestmark = pytest.mark.slow

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
# SentencePiece puts words together from left to right, by pairs that are tokens
STEPS = [f"▁{word[:size]}" for word in ("Hello", "world") for size in range(1, 6)]
WORDS = ["▁", *STEPS, *"Heloword", "▁▁", "é", "你", "好", ",", "!"]
WORDS = list(dict.fromkeys(WORDS))
INFILL = ["<PRE>", "<SUF>", "<MID>"]
TEXTS = [
    "Hello world",
    " Hello",
    "  two",
    "a\n\nb",
    "<s>Hello</s>",
    "<|im_start|>Hello<|im_end|> world",
    "é你好🙂",
    "\0",
    "",
]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """A tokenizer with byte fallback that puts a space before a text, as Llama 2 and Mistral have it."""

    def words(writer):
        tokens = [*SPECIAL, *(f"<0x{value:02X}>" for value in range(256)), *WORDS, *INFILL]
        kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 4, *[gguf.TokenType.BYTE] * 256]
        kinds += [gguf.TokenType.NORMAL] * len(WORDS) + [gguf.TokenType.CONTROL] * 3
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_scores([0.0] * 261 + [-float(i) for i in range(len(WORDS))] + [0.0] * 3)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(True)
        writer.add_uint32("tokenizer.ggml.fim_pre_token_id", len(tokens) - 3)
        writer.add_uint32("tokenizer.ggml.fim_suf_token_id", len(tokens) - 2)
        writer.add_uint32("tokenizer.ggml.fim_mid_token_id", len(tokens) - 1)

    path = tmp_path_factory.mktemp("spm") / "m.gguf"
    write_tiny(path, tokenizer=words)
    open_gguf(path)
    return LlamaTokenizer(LlamaVocabulary(path), "{{ bos_token }}{{ messages[0].content }}")


@pytest.fixture(scope="module")
def pocket(pocket_gguf):
    return LlamaTokenizer(LlamaVocabulary(pocket_gguf), open_gguf(pocket_gguf).chat_template)


def test_special_tokens_spaces_and_bytes_become_the_ids_that_they_have(sentencepiece):
    ids = {token: sentencepiece.encode(token, add_special_tokens=False) for token in SPECIAL[1:]}
    assert ids == {"<s>": [1], "</s>": [2], "<|im_start|>": [3], "<|im_end|>": [4]}
    hello, world = 261 + WORDS.index("▁Hello"), 261 + WORDS.index("▁world")
    assert sentencepiece.encode("Hello world", add_special_tokens=True) == [1, hello, world]
    assert sentencepiece.encode("Hello world", add_special_tokens=False) == [hello, world]
    space, emoji = 261 + WORDS.index("▁"), [5 + byte for byte in "🙂".encode()]
    assert sentencepiece.encode("🙂", add_special_tokens=False) == [space, *emoji]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_from_its_ids(text, sentencepiece, pocket):
    for tokenizer in (sentencepiece, pocket):
        ids = tokenizer.encode(text, add_special_tokens=False)
        # SentencePiece has a space before what follows a special token
        expected = (
            text.replace(">Hello", "> Hello").replace("> world", ">  world") if tokenizer is sentencepiece else text
        )
        assert tokenizer.decode(ids) == expected
        detokenizer = tokenizer.detokenizer(skip_special_tokens=False)
        shown = "".join(map(detokenizer.feed, ids)) + detokenizer.flush()
        assert shown.lstrip() == expected.lstrip()


def test_a_long_text_and_half_a_character_are_read(sentencepiece):
    assert len(sentencepiece.encode("Hello world " * 20_000, add_special_tokens=False)) == 2 * 20_000 + 1
    assert sentencepiece.encode("a\ud800", add_special_tokens=False) == sentencepiece.encode(
        "a?", add_special_tokens=False
    )


def test_special_tokens_are_hidden_unless_asked_for_and_ids_past_all_tokens_are_nothing(sentencepiece):
    assert sentencepiece.token_bytes(4) == b""
    assert sentencepiece.token_bytes(4, skip_special_tokens=False) == b"<|im_end|>"
    assert sentencepiece.token_bytes(5 + 0xF0) == b"\xf0"
    assert sentencepiece.token_bytes(10**6) == b""
    assert sentencepiece.token_bytes(-1) == b""
    assert sentencepiece.eos_ids >= {2, 4}, "the file names one, llama.cpp knows the other by its text"


def test_what_stands_between_two_texts_is_asked_for_by_the_files_tokens(sentencepiece, pocket):
    ids = sentencepiece.encode_infill("Hello", "world")
    first = 261 + len(WORDS)
    assert [token for token in ids if token >= first] == [first, first + 1, first + 2]
    with pytest.raises(UnsupportedFieldError, match="fill-in-the-middle"):
        pocket.encode_infill("a", "b")


def test_conversations_are_the_text_and_the_ids_that_transformers_makes_of_them(pocket):
    own = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    messages = [
        {"role": "user", "content": "What is the capital of France?", "name": None},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]
    options = {"add_generation_prompt": True}
    text = own.apply_chat_template(messages, tokenize=False, **options)
    assert pocket.render_chat(messages, options) == text
    assert pocket.encode(text, add_special_tokens=False) == own.encode(text)
    assert pocket.template_variables >= {"messages", "add_generation_prompt", "tools"}


def test_a_text_that_is_cut_at_special_tokens_has_the_ids_of_the_whole(sentencepiece, pocket):
    for tokenizer in (sentencepiece, pocket):
        assert "<|im_end|>" in tokenizer.boundaries
        cache = EncodingCache(lambda text, t=tokenizer: t.encode(text, add_special_tokens=False), tokenizer.boundaries)
        text = ""
        for turn in range(8):
            text += f"<|im_start|> Hello world {turn}" + " w o r d" * 20 + "\n<|im_end|>\n"
            assert cache.encode(text) == tokenizer.encode(text, add_special_tokens=False)


def test_a_template_writes_the_files_own_tokens(sentencepiece):
    assert sentencepiece.render_chat([{"role": "user", "content": "x"}], {}) == "<s>x"


ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ self.__init__.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ messages.append.__self__.__class__.__base__.__subclasses__()[0] }}",
    "{{ namespace.__init__.__globals__['os'].system('touch CANARY') }}",
    "{% include 'CANARY' %}",
    "{{ messages.__class__.__bases__ }}{{ raise_exception.__globals__ }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_that_breaks_out_is_an_error_and_does_nothing(attack, pocket_gguf, tmp_path):
    canary = tmp_path / "canary"
    tokenizer = LlamaTokenizer(LlamaVocabulary(pocket_gguf), attack.replace("CANARY", str(canary)))
    with pytest.raises(InvalidRequestError, match="template"):
        tokenizer.render_chat([{"role": "user", "content": "hello"}], {"add_generation_prompt": True})
    assert not canary.exists()


def test_of_several_templates_the_one_for_tools_is_taken_where_there_are_some(pocket_gguf):
    tokenizer = LlamaTokenizer(LlamaVocabulary(pocket_gguf), {"default": "plain", "tool_use": "tools"})
    messages = [{"role": "user", "content": "x"}]
    assert tokenizer.render_chat(messages, {}) == "plain"
    assert tokenizer.render_chat(messages, {"tools": [{"type": "function"}]}) == "tools"
    without = LlamaTokenizer(LlamaVocabulary(pocket_gguf), None)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        without.render_chat(messages, {})


LONG = {
    "letters": "a" * 100_000,
    "spaces": " " * 100_000,
    "digits": "1" * 100_000,
    "characters": "你" * 50_000,
    "line ends": "\n " * 50_000,
    "signs": "!" * 100_000,
    "snakes": "a_" * 50_000,
}


@pytest.mark.parametrize("rules", ["deepseek-llm", "tekken", "poro-chat"])
def test_no_text_is_so_long_that_reading_it_overflows_the_stack(rules, pocket_gguf, tmp_path):
    """In a process of its own, as the failure is its end: 20,000 letters in a row were enough."""
    path = tmp_path / "m.gguf"
    reader = gguf.GGUFReader(pocket_gguf)
    tokens, merges = (reader.fields[f"tokenizer.ggml.{each}"].contents() for each in ("tokens", "merges"))

    def words(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(rules)
        writer.add_token_list(tokens)
        writer.add_token_merges(merges)

    write_tiny(path, tokenizer=words)
    code = (
        "import json, sys; from pathlib import Path; from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary;"
        "v = LlamaVocabulary(Path(sys.argv[1]));"
        "print([v.detokenize(v.tokenize(t, add_special_tokens=False)).decode() == t for t in json.load(sys.stdin)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        input=json.dumps(list(LONG.values())),
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str([True] * len(LONG))


def test_runs_are_cut_only_where_they_are_too_long():
    text = "x" * 60_000 + " " * 10 + "word " * 30_000 + "\n" * 50_001
    assert [len(part) for part in _cut(text)] == [50_000, 10_000 + 10 + 150_000 - 1 + 50_000, 2]
    assert "".join(_cut(text)) == text
    assert _cut("") == [""]
    assert _cut("a b " * 100_000) == ["a b " * 100_000]
