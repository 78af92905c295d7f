"""What clients are told of a load that failed: the reason, and nothing of the machine."""

from __future__ import annotations

import pytest

from llmapi_kit.errors import ModelLoadError, ModelTooLargeError
from llmapi_kit.loading.load_failure import load_failure, without_secrets

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/secret/models/x/config.json can't be read", "…/config.json can't be read"),
        ("file '/var/cache/hub/x.bin': no", "file '…/x.bin': no"),
        ("see ~/models/private/x", "see …/x"),
        (r"C:\Users\ann\x.gguf is damaged", "…/x.gguf is damaged"),
        ("hf_abcdefgh1234 was refused", "… was refused"),
        ("key sk-proj-abcd1234efgh, sorry", "key …, sorry"),
        ("Authorization: Bearer abcdef.ghijkl", "Authorization: …"),
        ("https://huggingface.co/a/b is not there", "https://huggingface.co/a/b is not there"),
        ("Qwen/Qwen3-0.6B has no weights", "Qwen/Qwen3-0.6B has no weights"),
        ("3/4 of it, and/or more", "3/4 of it, and/or more"),
    ],
)
def test_folders_and_tokens_are_left_out(text, told):
    assert without_secrets(text, "some-model", None) == told


def test_what_the_user_wrote_stays():
    text = "/data/models/x/config.json can't be read"
    assert without_secrets(text, "/data/models/x", "/data/models/x") == text
    assert without_secrets(text, "./x", "/data/models/x") == "./x/config.json can't be read"


def test_an_error_that_is_not_the_kits_is_told_by_its_kind_only():
    failure = load_failure("m", None, RuntimeError("internal details"), None)
    assert failure.message == "The model 'm' could not be loaded: RuntimeError while it was loaded. " + (
        "The server's log says more."
    )


def test_each_failure_doubles_the_pause_up_to_a_minute_but_for_want_of_room():
    failure, pauses = None, []
    for _ in range(8):
        failure = load_failure("m", None, ModelLoadError("no"), failure)
        pauses.append(failure.pause_s)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert load_failure("m", None, ModelTooLargeError("no"), failure).pause_s == 0
