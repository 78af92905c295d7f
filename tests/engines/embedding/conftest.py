"""An encoder without weights, and engines over it."""

from __future__ import annotations

import math
import threading

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from llmapi_kit.config import Settings
from llmapi_kit.engines.embedding.engine import EmbeddingEngine
from llmapi_kit.engines.embedding.text_reader import TextReader
from llmapi_kit.types import EngineInfo

WORDS = [f"w{number}" for number in range(50)]


def make_tokenizer():
    """A token a word, between [CLS] and [SEP]."""
    vocabulary = {word: at for at, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS, "one", "two", "three"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


class FakeEncoder:
    """Vectors that only the ids decide; may be held up, and fails on an id that it is told."""

    size, num_parameters, device, dtype = 3, 0, "cpu", "float32"

    def __init__(self, *, num_workers=1, batch_tokens=64, max_length=16, fails_on=None, size=3):
        self.num_workers, self.batch_tokens, self.max_length, self.size = num_workers, batch_tokens, max_length, size
        self.fails_on = fails_on
        self.batches = []
        self.is_closed = False
        self.entered = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()

    def start(self):
        self.num_started = getattr(self, "num_started", 0) + 1

    def encode(self, batch):
        self.batches.append(batch)
        self.entered.set()
        assert self.may_go.wait(30), "nobody let it go on"
        if any(self.fails_on in each.ids for each in batch):
            raise RuntimeError("a broken text")
        return [self.vector(each.ids) for each in batch]

    def vector(self, ids):
        values = [math.sin(sum(ids) + number) + 0.01 * len(ids) for number in range(self.size)]
        length = math.hypot(*values)
        return [value / length for value in values]

    def close(self):
        self.is_closed = True


def make_engine(encoder=None, *, capabilities=("embeddings", "rerank"), settings=None, prompts=(), **options):
    encoder = encoder or FakeEncoder()
    reader = TextReader(make_tokenizer(), encoder.max_length, prompts=dict(prompts), **options)
    info = EngineInfo("fake-embed", encoder.max_length, 1, capabilities=tuple(capabilities))
    return EmbeddingEngine(info, encoder, reader, settings or Settings())


@pytest.fixture
def engine_of():
    """Makes engines; all are closed at the end."""
    made = []

    def make(*arguments, **options):
        made.append(make_engine(*arguments, **options))
        return made[-1]

    yield make
    for engine in made:
        engine._loop._encoder.may_go.set()
        engine.close()
