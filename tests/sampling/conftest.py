"""Compilers for tokenizers of every kind."""

from __future__ import annotations

import pytest

from llmapi_kit.sampling.constraints import Constraint


def _make(tokenizer, width, eos_ids, **options):
    from llmapi_kit.sampling.grammar_compiler import GrammarCompiler  # kernel tests beside these do without torch

    return GrammarCompiler(tokenizer, width, eos_ids, **options)


def _vocabularies():
    from tests.sampling import vocabularies  # the same

    return vocabularies


@pytest.fixture(scope="session", params=["byte-level", "sentencepiece", "metaspace"])
def any_compiler(request):
    """(compiler, tokenizer, ids that end an answer) of each kind of vocabulary."""
    vocabularies = _vocabularies()
    # Logits are wider than the vocabulary, as in models padded to a round number
    tokenizer, width, eos_ids = {
        "byte-level": (vocabularies.pocket(), vocabularies.POCKET_LOGITS + 64, vocabularies.POCKET_EOS),
        "sentencepiece": (vocabularies.sentencepiece(), 1024, (2,)),
        "metaspace": (vocabularies.metaspace(), 1024, (2,)),
    }[request.param]
    compiler = _make(tokenizer, width, eos_ids)
    yield compiler, tokenizer, eos_ids
    compiler.close()


@pytest.fixture(scope="session")
def compiler():
    """For the pocket model's vocabulary."""
    vocabularies = _vocabularies()
    compiler = _make(vocabularies.pocket(), vocabularies.POCKET_LOGITS, vocabularies.POCKET_EOS)
    yield compiler
    compiler.close()


@pytest.fixture
def new_compiler():
    """Makes compilers that no other test has used, and closes them."""
    made = []
    vocabularies = _vocabularies()

    def make(**options):
        tokenizer = options.pop("tokenizer", None) or vocabularies.pocket()
        eos_ids = options.pop("eos_ids", vocabularies.POCKET_EOS)
        made.append(_make(tokenizer, vocabularies.POCKET_LOGITS, eos_ids, **options))
        return made[-1]

    yield make
    for compiler in made:
        compiler.close()


@pytest.fixture
def constraint():
    """Makes constraints, with a field's name."""
    return lambda kind, source="", param="the_field": Constraint(kind, source, param)
