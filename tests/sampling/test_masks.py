from __future__ import annotations

import json
import random

import pytest
import torch

from llmapi_kit.errors import GenerationError
from llmapi_kit.sampling import grammar_compiler
from llmapi_kit.sampling import matcher as matcher_module
from llmapi_kit.sampling.masks import MaskWorker
from tests.sampling import vocabularies
from tests.sampling.answers import allowed_ids, allowed_tokens


@pytest.fixture
def worker():
    worker = MaskWorker()
    yield worker
    worker.close()
    worker.close()


@pytest.fixture
def matchers(compiler, constraint):
    """Of several kinds, at several places."""
    made = [
        compiler.compile(constraint("json_object")),
        compiler.compile(constraint("regex", "[a-c]{2}[0-9]+")),
        compiler.compile(constraint("choice", '["yes", "no"]')),
    ]
    moved = made[0].clone()
    moved.accept(int(allowed_ids(moved)[0]))
    return [*made, moved]


def masked(worker, matchers, logits):
    masks = worker.start(matchers).wait()
    masks.apply(logits)
    return masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_keeps_what_its_own_matcher_allows(worker, matchers, dtype):
    logits = torch.randn(6, vocabularies.POCKET_LOGITS).to(dtype)
    before = logits.clone()
    rows = [None, matchers[0], matchers[1], None, matchers[2], matchers[3]]
    assert masked(worker, rows, logits).errors == {}
    for row, matcher in enumerate(rows):
        allowed = torch.ones(len(logits[row]), dtype=bool)
        if matcher is not None:
            allowed = torch.from_numpy(allowed_tokens(matcher).copy())
        assert torch.equal(logits[row][allowed], before[row][allowed])
        assert (logits[row][~allowed] == -torch.inf).all()


def test_a_batch_in_which_every_row_is_constrained(worker, matchers):
    logits = torch.zeros(4, vocabularies.POCKET_LOGITS)
    masked(worker, matchers, logits)
    for row, matcher in zip(logits, matchers, strict=True):
        assert row.isfinite().nonzero()[:, 0].tolist() == allowed_ids(matcher).tolist()


def test_ids_past_the_vocabulary_are_never_allowed(any_compiler, constraint, worker):
    compiler, tokenizer, _ = any_compiler
    matcher = compiler.compile(constraint("regex", "(?s:.)+"))
    for rows in ([matcher], [None, matcher]):
        logits = torch.zeros(len(rows), len(tokenizer) + 50)
        masked(worker, rows, logits)
        assert (logits[-1, len(tokenizer) :] == -torch.inf).all()
        assert logits[-1].isfinite().any()


def test_logits_may_be_narrower_than_the_vocabulary(new_compiler, constraint, worker):
    compiler = grammar_compiler.GrammarCompiler(vocabularies.pocket(), 1000, vocabularies.POCKET_EOS)
    logits = torch.zeros(1, 1000)
    masked(worker, [compiler.compile(constraint("regex", "(?s:.)+"))], logits)
    assert logits.isfinite().any()
    compiler.close()


def test_a_matcher_that_fails_fails_only_its_own_row(worker, matchers, compiler, constraint):
    broken = compiler.compile(constraint("regex", "[0-9]+"))
    letter = vocabularies.pocket().encode("a", add_special_tokens=False)[0]
    for _ in range(2):
        with pytest.raises(GenerationError, match="can't go on"):
            broken.accept(letter)
    assert not broken.is_finished
    logits = torch.zeros(3, vocabularies.POCKET_LOGITS)
    masks = masked(worker, [matchers[0], broken, matchers[1]], logits)
    assert set(masks.errors) == {1}
    assert masks.errors[1].status == 500
    assert logits[1].isfinite().all(), "sampling it does no harm"
    assert logits[0].isfinite().nonzero()[:, 0].tolist() == allowed_ids(matchers[0]).tolist()
    assert logits[2].isfinite().nonzero()[:, 0].tolist() == allowed_ids(matchers[1]).tolist()


def test_a_grammar_that_grows_too_complex_fails_its_own_answer(new_compiler, constraint, monkeypatch, worker):
    monkeypatch.setitem(grammar_compiler.LIMITS, "step_max_items", 5000)
    compiler = new_compiler()
    ambiguous = 'start: HEAD x\nHEAD: /[a-z]{70}/\nx: x x | /[a-z]/ | "b"'  # past what is tried beforehand
    matcher, other = (compiler.compile(constraint("lark", source)) for source in (ambiguous, "start: /[a-z]+/"))
    letter = vocabularies.pocket().encode("a", add_special_tokens=False)[0]
    errors = {}
    for _ in range(200):
        logits = torch.zeros(2, vocabularies.POCKET_LOGITS)
        errors = masked(worker, [matcher, other], logits).errors
        assert logits[1, letter] == 0
        if errors:
            break
        matcher.accept(letter)
        other.accept(letter)
    assert set(errors) == {0}
    assert "Too many items" in errors[0].message


def test_a_step_without_constraints_costs_no_thread(worker):
    logits = torch.zeros(2, 10)
    masks = masked(worker, [None, None], logits)
    assert masks.errors == {}
    assert (logits == 0).all()
    assert worker._thread is None


def test_masks_may_be_computed_again_for_the_same_place(worker, matchers):
    first, second = torch.zeros(4, 3072), torch.zeros(4, 3072)
    masked(worker, matchers, first)
    masked(worker, matchers, second)
    assert torch.equal(first, second)


def test_a_clone_goes_its_own_way(compiler, constraint):
    matcher = compiler.compile(constraint("choice", '["ab", "ac"]'))
    a, b, c = (vocabularies.pocket().encode(text, add_special_tokens=False)[0] for text in "abc")
    matcher.accept(a)
    other = matcher.clone()
    matcher.accept(b)
    assert matcher.is_finished
    assert not other.is_finished
    other.accept(c)
    assert other.is_finished


@pytest.fixture
def growing(new_compiler, constraint, monkeypatch):
    """A compiler with small lexers, and a grammar of which nearly each text needs states of its own."""
    monkeypatch.setitem(grammar_compiler.LIMITS, "max_lexer_states", 2000)
    return new_compiler(), constraint("regex", "(a|b)*a(a|b){30}x")


def go_on(worker, matcher, num_tokens):
    rng = random.Random(0)
    ids = [vocabularies.pocket().encode(text, add_special_tokens=False)[0] for text in "ab"]
    for _ in range(num_tokens):
        logits = torch.zeros(1, vocabularies.POCKET_LOGITS)
        for error in masked(worker, [matcher], logits).errors.values():
            raise error
        assert logits[0, ids].isfinite().all()
        matcher.accept(rng.choice(ids))


@pytest.mark.slow
def test_a_long_answer_outlives_its_lexer(growing, worker):
    compiler, wanted = growing
    matcher = compiler.compile(wanted)
    assert compiler.compile(wanted).grammar is matcher.grammar
    go_on(worker, matcher, 900)
    assert matcher.grammar.is_worn
    assert compiler.compile(wanted).grammar is not matcher.grammar, "new answers start with a new lexer"


def test_an_answer_that_wears_out_lexers_too_fast_is_ended(growing, worker, monkeypatch):
    monkeypatch.setattr(matcher_module, "MIN_TOKENS_BEFORE_RENEWAL", 2000)
    compiler, wanted = growing
    with pytest.raises(GenerationError, match="too many states"):
        go_on(worker, compiler.compile(wanted), 2000)


def test_matchers_of_one_grammar_are_computed_side_by_side(worker, compiler, constraint):
    schema = {"type": "array", "items": {"type": "string", "maxLength": 9}}
    made = [compiler.compile(constraint("json_schema", json.dumps(schema))) for _ in range(16)]
    rng = random.Random(0)
    for _ in range(30):
        logits = torch.zeros(len(made), vocabularies.POCKET_LOGITS)
        assert masked(worker, made, logits).errors == {}
        for row, matcher in zip(logits, made, strict=True):
            assert row.isfinite().nonzero()[:, 0].tolist() == allowed_ids(matcher).tolist()
            if not matcher.is_finished:
                matcher.accept(rng.choice(row.isfinite().nonzero()[:, 0].tolist()))
