"""Which of the clients' own tests can't pass here, why, and in which error each has to end.

A reason is checked like a test: it is wrong when its test is gone, passes, or fails in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

WAYS = ("method", "raw_response", "streaming_response")
# The clients a test runs with: answers are read loosely, or checked against the client's types; "aiohttp" checks too.
# All but that one come synchronous and asynchronous.
NUM_CLIENTS = {"loose": 2, "strict": 2, "aiohttp": 1}


@dataclass(frozen=True)
class Reason:
    """Why some tests can't pass.

    Attributes:
        tests: the tests.
        why: for people.
        error: is part of what each of them says.
        clients: with which clients.
    """

    tests: tuple[str, ...]
    why: str
    error: str
    clients: tuple[str, ...] = tuple(NUM_CLIENTS)

    def covers(self, test: str, client: str) -> bool:
        """Whether a test fails with a client for this reason."""
        return test in self.tests and client in self.clients


def _each_way(module: str, method: str) -> tuple[str, ...]:
    return tuple(f"{module}.test_{way}_{method}" for way in WAYS)


_CHAT = "chat.test_completions"

_EDITS = tuple(
    f"test_images.test_{way}"
    for overload in (1, 2)
    for way in (
        *(f"{kind}_edit_overload_{overload}" for kind in WAYS),
        f"method_edit_with_all_params_overload_{overload}",
    )
)
_VARIATIONS = (
    *_each_way("test_images", "create_variation"),
    "test_images.test_method_create_variation_with_all_params",
)

_RESPONSES = "test_responses"
_MESSAGES = ("test_messages", "beta.test_messages")
_COUNT = "responses.test_input_tokens"

OPENAI_REASONS = (
    Reason(
        (
            f"{_CHAT}.test_method_list_with_all_params",
            "chat.completions.test_messages.test_method_list_with_all_params",
        ),
        "The values are made up: a page of 0, after an id that is none.",
        "400 - limit: Input should be greater than or equal to 1 (got '0')",
    ),
    Reason(
        _each_way("test_models", "delete"),
        "Which models are served is decided in the notebook, not by a client.",
        "405 - /v1/models/ft:gpt-4o-mini:acemeco:suffix:abc123 does not take DELETE",
    ),
    Reason(
        tuple(f"{_CHAT}.test_method_create_with_all_params_overload_{i}" for i in (1, 2)),
        "One request has every field there is, with made-up values: max_tokens 0, a logit_bias for the token 'foo', "
        "audio, moderation, a web search. Field by field it is test_client_fields.py.",
        "400 - The field audio is not supported by this server",
    ),
    Reason(
        tuple(f"test_completions.test_method_create_with_all_params_overload_{i}" for i in (1, 2)),
        "The same for completions: best_of 0, a logit_bias for the token 'foo'.",
        "Error code: 400 - ",
    ),
    Reason(
        _EDITS,
        "Pictures are made here and not changed: there is no such route.",
        "404 - There is no POST /v1/images/edits here",
    ),
    Reason(
        _VARIATIONS,
        "The same.",
        "404 - There is no POST /v1/images/variations here",
    ),
    Reason(
        tuple(f"test_images.test_method_generate_with_all_params_overload_{i}" for i in (1, 2)),
        "One request has every field there is: a transparent background, frames, SVG. Field by field it is "
        "test_client_fields.py.",
        "400 - The field ",
    ),
    Reason(
        tuple(f"test_images.test_{way}_generate_overload_2" for way in WAYS),
        "Pictures come whole, without a stream of half-finished ones.",
        "400 - The field stream is not supported by this server. Only false is possible",
    ),
    Reason(
        _each_way("test_embeddings", "create"),
        "The client asks for base64 by itself and decodes it after it has checked the answer, so that its own check "
        "finds a text in place of numbers.",
        "Data returned by API invalid for expected schema",
        ("strict", "aiohttp"),
    ),
    Reason(
        (
            *(f"{_RESPONSES}.test_{way}_create_overload_{i}" for way in WAYS for i in (1, 2)),
            *_each_way(_COUNT, "count"),
        ),
        "A request without an input asks nothing.",
        "400 - The field input is missing; there is nothing to answer.",
    ),
    Reason(
        (
            *(f"{_RESPONSES}.test_method_create_with_all_params_overload_{i}" for i in (1, 2)),
            f"{_COUNT}.test_method_count_with_all_params",
        ),
        "One request has every field there is: a conversation, a stored prompt, moderation, a low verbosity. Field by "
        "field it is test_client_fields.py.",
        "400 - text.verbosity: Input should be 'medium' (got 'low').",
    ),
    Reason(
        tuple(f"{_RESPONSES}.test_method_retrieve_with_all_params_overload_{i}" for i in (1, 2)),
        "It asks for events that are padded; they are not.",
        "400 - include_obfuscation can only be false.",
    ),
    Reason(
        ("responses.test_input_items.test_method_list_with_all_params",),
        "The values are made up: a page of 0.",
        "400 - limit: Input should be greater than or equal to 1 (got '0')",
    ),
    Reason(
        (*_each_way(_RESPONSES, "compact"), f"{_RESPONSES}.test_method_compact_with_all_params"),
        "No model here compacts a conversation; there is no such route.",
        "404 - There is no POST /v1/responses/compact here",
    ),
)
ANTHROPIC_REASONS = (
    Reason(
        tuple(f"{module}.test_method_create_with_all_params_overload_{i}" for module in _MESSAGES for i in (1, 2)),
        "One request has every field there is: a container, diagnostics, citations, input examples. Field by field it "
        "is tests/api/test_messages.py.",
        "400 - {'type': 'error', 'error': {'type': 'invalid_request_error', 'message': ",
    ),
    Reason(
        tuple(f"{module}.test_method_count_tokens_with_all_params" for module in _MESSAGES),
        "The same for counting.",
        "400 - {'type': 'error', 'error': {'type': 'invalid_request_error', 'message': ",
    ),
)
