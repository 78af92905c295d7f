"""Compilers for tokenizers of every kind."""

from __future__ import annotations

import pytest

from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
from tests.sampling import vocabularies

# Logits are wider than the vocabulary, as in models padded to a round number
KINDS = {
    "byte-level": (vocabularies.pocket, vocabularies.POCKET_LOGITS + 64, vocabularies.POCKET_EOS),
    "sentencepiece": (vocabularies.sentencepiece, 1024, (2,)),
    "metaspace": (vocabularies.metaspace, 1024, (2,)),
}


@pytest.fixture(scope="session", params=list(KINDS))
def any_compiler(request):
    """(compiler, tokenizer, ids that end an answer) of each kind of vocabulary."""
    make, width, eos_ids = KINDS[request.param]
    compiler = GrammarCompiler(make(), width, eos_ids)
    yield compiler, make(), eos_ids
    compiler.close()


@pytest.fixture(scope="session")
def compiler():
    """For the pocket model's vocabulary."""
    compiler = GrammarCompiler(vocabularies.pocket(), vocabularies.POCKET_LOGITS, vocabularies.POCKET_EOS)
    yield compiler
    compiler.close()


@pytest.fixture
def new_compiler():
    """Makes compilers that no other test has used, and closes them."""
    made = []

    def make(**options):
        tokenizer = options.pop("tokenizer", None) or vocabularies.pocket()
        eos_ids = options.pop("eos_ids", vocabularies.POCKET_EOS)
        made.append(GrammarCompiler(tokenizer, vocabularies.POCKET_LOGITS, eos_ids, **options))
        return made[-1]

    yield make
    for compiler in made:
        compiler.close()


@pytest.fixture
def constraint():
    """Makes constraints, with a field's name."""
    return lambda kind, source="", param="the_field": Constraint(kind, source, param)
