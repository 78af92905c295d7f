"""The class of a tokenizer is found without the model's configuration, and is the one that transformers finds."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers

from llmapi_kit.checkpoints import vocabulary
from llmapi_kit.checkpoints.decoder_config import ARCHITECTURES
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.checkpoints.vocabulary import TOKENIZER_CLASSES, load_tokenizer
from tests.checkpoints.odd_folders import TOKENIZER
from tests.sampling import vocabularies

TEXT = "The capital of France is Paris. 首都 <|im_end|>\n\n  12345 don't"
TEXTS = (TEXT, "the name", " the name", "  <s> the</s>the\n", "世界 é ß \U0001f600\U0001f680", "")
# Of families that share a table of names, the first with all of them, the others with the last
CHOICES = [
    (family, name)
    for at, (family, names) in enumerate(TOKENIZER_CLASSES.items())
    for name in (names if names not in list(TOKENIZER_CLASSES.values())[:at] else list(names)[-1:])
]


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with the pocket model's tokenizer, for a model of another family."""

    def make(family, name, **more):
        for file in TOKENIZER:
            shutil.copy(POCKET_DIR / file, tmp_path)
        config = json.loads((POCKET_DIR / "config.json").read_text())
        config |= {"model_type": family, "architectures": [ARCHITECTURES[family]], "bos_token_id": 1}
        (tmp_path / "config.json").write_text(json.dumps(config))
        own = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": name, **more}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
        return str(tmp_path)

    return make


@pytest.mark.parametrize(("family", "name"), CHOICES)
def test_transformers_makes_the_same_tokenizer(family, name, folder, monkeypatch):
    source = folder(family, name, **({"unk_token": "<|im_end|>"} if "Gemma" in name else {}))
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    monkeypatch.setattr(vocabulary, "import_heavy", lambda modules: pytest.fail("asked AutoTokenizer"))
    mine = load_tokenizer(source, "The tokenizer")
    assert type(mine) is type(theirs)
    assert mine.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert mine.encode(TEXT) == theirs.encode(TEXT)
    assert mine.chat_template == theirs.chat_template
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert mine.added_tokens_decoder == theirs.added_tokens_decoder


@pytest.fixture
def sentencepiece(folder, tmp_path):
    """The same folder with a tokenizer as SentencePiece's are, of one of two kinds."""

    def make(family, name, kind):
        source = folder(family, name, chat_template=None)
        getattr(vocabularies, kind)().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
        own = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(own | {"add_bos_token": True, "legacy": False}))
        return source

    return make


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mistral", "LlamaTokenizerFast"),
        ("mixtral", "LlamaTokenizer"),
        ("ministral", "TokenizersBackend"),
        ("llama", "LlamaTokenizer"),
        ("llama", "LlamaTokenizerFast"),
    ],
)
def test_sentencepiece_reads_and_writes_as_with_transformers(family, name, kind, sentencepiece, monkeypatch):
    source = sentencepiece(family, name, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    monkeypatch.setattr(vocabulary, "import_heavy", lambda modules: pytest.fail("asked AutoTokenizer"))
    mine = load_tokenizer(source, "The tokenizer")
    assert type(mine) is type(theirs)
    for text in TEXTS:
        for adds_special in (True, False):
            ids = theirs.encode(text, add_special_tokens=adds_special)
            assert mine.encode(text, add_special_tokens=adds_special) == ids
            assert mine.decode(ids) == theirs.decode(ids)
    assert mine.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_a_vocabulary_of_mistrals_own_package_is_left_to_it(folder, tmp_path, monkeypatch):
    source = folder("mistral", "LlamaTokenizer")
    (tmp_path / "tekken.json").write_text("{}")
    assert vocabulary._tokenizer_class(source) is transformers.PreTrainedTokenizerFast, "which is not installed"
    monkeypatch.setattr(vocabulary, "import_heavy", lambda modules: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert vocabulary._tokenizer_class(source) is transformers.AutoTokenizer


@pytest.mark.parametrize(
    ("family", "name", "more"),
    [
        ("mistral", "MistralCommonBackend", {}),
        ("llama", "CodeLlamaTokenizer", {}),
        ("llama", "PreTrainedTokenizerFast", {"auto_map": {"AutoTokenizer": [None, None]}}),
    ],
)
def test_where_the_class_is_not_known_transformers_is_asked(family, name, more, folder, monkeypatch):
    asked = []
    source = folder(family, name, **more)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *args, **options: asked.append(args) or [1]
    )
    load_tokenizer(source, "The tokenizer")
    assert asked
