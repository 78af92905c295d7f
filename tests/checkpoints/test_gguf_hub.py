"""GGUF files of the hub: which one a name means, and that it is downloaded once."""

from __future__ import annotations

import pytest

from llmapi_kit.checkpoints.gguf_hub import choose, download_gguf
from llmapi_kit.checkpoints.spec import GgufName, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.errors import ModelNotFoundError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.sources import SOURCES
from tests.checkpoints.fake_hub import Repository

MANY = [
    "README.md",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "m-IQ4_NL.gguf",
    "m-Q8_0.gguf",
    "mmproj-F16.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "half/m-F32-00001-of-00002.gguf",
]
CHOICES = {
    "": ["m-Q4_K_M.gguf"],
    "m-Q8_0.gguf": ["m-Q8_0.gguf"],
    "q8_0": ["m-Q8_0.gguf"],
    "Q4_K_S": ["m-Q4_K_S.gguf"],
    "*q4_k_m*": ["m-Q4_K_M.gguf"],
    "BF16": ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"],
    "BF16/m-BF16-00002-of-00002.gguf": ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"],
}


@pytest.mark.parametrize("wanted", sorted(CHOICES))
def test_a_file_is_named_whole_by_a_pattern_or_by_its_number_format(wanted):
    assert choose(MANY, GgufName("o/n", wanted)) == CHOICES[wanted]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("*Q4_K*", "several.*m-Q4_K_M.gguf, m-Q4_K_S.gguf"),
        ("Q4", "none.*m-Q8_0.gguf"),
        ("F32", "none"),
        ("F16", "none"),
        ("Q6_K", "hf:o/n/Q6_K names none"),
    ],
)
def test_a_name_that_means_none_or_several_is_answered_with_those_that_there_are(wanted, words):
    with pytest.raises(ModelNotFoundError, match=words):
        choose(MANY, GgufName("o/n", wanted))
    with pytest.raises(ModelNotFoundError, match="no GGUF files"):
        choose(["model.safetensors"], GgufName("o/n", wanted))


def test_names_are_understood():
    for text, wanted, model_id in (
        ("hf:o/n/m.gguf", GgufName("o/n", "m.gguf"), "m"),
        ("hf:o/n/BF16/m-00001-of-00002.gguf", GgufName("o/n", "BF16/m-00001-of-00002.gguf"), "m"),
        ("hf:o/n:Q4_K_M", GgufName("o/n", "Q4_K_M"), "n"),
        ("hf:o/n/*Q4*.gguf", GgufName("o/n", "*Q4*.gguf"), "n"),
        ("hf:o/n", GgufName("o/n"), "n"),
    ):
        spec = parse_spec(text)
        assert (spec.kind, spec.gguf, spec.id, spec.path) == ("gguf", wanted, model_id, None)
    for text in ("hf:", "hf:o", "hf:o/n/", "hf:o/n/a b", "hf:../x/y"):
        with pytest.raises(ModelNotFoundError, match="hf:owner/name"):
            parse_spec(text)


@pytest.mark.slow
def test_a_file_of_the_hub_is_downloaded_once_and_answers(hub, pocket_gguf):
    hub.repositories["o/n"] = Repository({"m-F32.gguf": pocket_gguf.read_bytes(), "m-Q8_0.gguf": 5, "config.json": 9})
    spec = parse_spec("hf:o/n:F32")
    SOURCES["gguf"].check(spec, {})
    assert SOURCES["gguf"].memory_need(spec, Settings(), {}).least_bytes == 0
    for _ in range(2):
        model = Model(make_engine(spec, Settings(max_slots=1)))
        assert model.ask("What is the capital of France?", temperature=0) == "The capital of France is Paris."
        model.close()
    assert sum(path.endswith("m-F32.gguf") for _, path, *_ in hub.asked) == 1
    assert SOURCES["gguf"].memory_need(spec, Settings(), {}).least_bytes > pocket_gguf.stat().st_size


def test_the_file_for_pictures_comes_along_in_the_usual_format_unless_it_is_not_wanted(hub):
    files = {name: name.encode() for name in ("m.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf")}
    for repository, has_mmproj, expected in (("o/n", False, []), ("o/two", True, ["mmproj-F16.gguf"])):
        hub.repositories[repository] = Repository(files)
        folder = download_gguf(GgufName(repository, "m.gguf"), 5, has_mmproj=has_mmproj).parent
        assert [path.name for path in folder.glob("*mmproj*")] == expected
