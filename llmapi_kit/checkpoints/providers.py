"""Who can be upstream: where each provider answers, where its key stands, and which request fields it honours.

One row a provider, data only. A field that is not in a provider's row is refused by name: several providers take any
field and ignore it.

Source: the providers' own pages on OpenAI compatibility; for vLLM and Ollama also the fields their servers read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmapi_kit.errors import ModelNotFoundError

# Names are those of our own API; `requests` writes them as the provider does.
BASIC = frozenset(("temperature", "top_p", "max_tokens", "stop"))
PENALTIES = frozenset(("presence_penalty", "frequency_penalty"))
TOOLS = frozenset(("tools", "tool_choice", "parallel_tool_calls", "strict"))
FORMATS = frozenset(("json_object", "json_schema"))
OPENAI_CHAT = BASIC | PENALTIES | TOOLS | FORMATS | {"n", "seed", "logit_bias", "logprobs", "reasoning_effort"}
OPENAI_COMPLETIONS = BASIC | PENALTIES | {"n", "seed", "logit_bias", "logprobs", "suffix", "echo", "best_of"}
SHOWN = ("include_stop_str_in_output", "skip_special_tokens")
SAMPLERS = frozenset(("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "min_tokens", *SHOWN))
GRAMMARS = frozenset(("json_schema", "regex", "choice", "lark"))
TEMPLATES = frozenset(
    ("chat_template_kwargs", "continue_final_message", "add_generation_prompt", "echo", "reasoning_content")
)
# What a field left out means where a provider says so; elsewhere these are always sent.
OPENAI_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How to speak with one provider.

    Attributes:
        name: what stands before the colon of a model's name, and in ``owned_by``.
        base_url: where it answers; empty where it has to be given.
        base_url_variable: environment variable that may say so too.
        key_variable: environment variable of the API key, or of several with commas between.
        needs_key: whether it answers nobody without one.
        chat: fields of a conversation that it honours; empty where it holds none.
        completions: the same for a prompt to continue.
        has_embeddings: whether it embeds.
        has_images: whether it makes pictures.
        has_tokenize: whether it has vLLM's ``/tokenize`` and ``/detokenize``.
        takes_token_ids: whether a prompt may be token ids.
        streams: whether it sends an answer piece by piece.
        says_usage: whether a stream ends with the usage when ``stream_options`` asks for it.
        defaults: what it takes for a field left out, where that is known; such a value need not be sent.
        max_temperature: above it the temperature is cut without a word.
        wire_names: fields it has another name for.
        structured_outputs: whether patterns and grammars go into vLLM's field of that name, not into ``guided_…``.
        extra: fields that go with every request.
        only_continues: whether conversations are written as a prompt for it; see `welm`.
        lists_models: whether a name without a model asks it for what it serves.
    """

    name: str
    base_url: str = ""
    base_url_variable: str = ""
    key_variable: str = ""
    needs_key: bool = True
    chat: frozenset[str] = OPENAI_CHAT
    completions: frozenset[str] = frozenset()
    has_embeddings: bool = False
    has_images: bool = False
    has_tokenize: bool = False
    takes_token_ids: bool = False
    streams: bool = True
    says_usage: bool = True
    defaults: Mapping[str, float] = field(default_factory=dict)
    max_temperature: float = 2.0
    wire_names: Mapping[str, str] = field(default_factory=dict)
    structured_outputs: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)
    only_continues: bool = False
    lists_models: bool = False


_ALL = (
    Provider(
        name="openai",
        base_url="https://api.openai.com/v1",
        base_url_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
        completions=OPENAI_COMPLETIONS,
        has_embeddings=True,
        has_images=True,
        takes_token_ids=True,
        defaults=OPENAI_DEFAULTS,
        wire_names={"max_tokens": "max_completion_tokens"},
    ),
    Provider(
        name="azure",
        base_url_variable="AZURE_OPENAI_ENDPOINT",
        key_variable="AZURE_OPENAI_API_KEY",
        completions=OPENAI_COMPLETIONS,
        has_embeddings=True,
        has_images=True,
        takes_token_ids=True,
        defaults=OPENAI_DEFAULTS,
        wire_names={"max_tokens": "max_completion_tokens"},
    ),
    Provider(
        name="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variable="ANTHROPIC_API_KEY",
        chat=BASIC | {"tools", "tool_choice", "parallel_tool_calls"},
        defaults=OPENAI_DEFAULTS,
        max_temperature=1.0,
    ),
    Provider(
        name="gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        chat=BASIC | FORMATS | {"n", "tools", "tool_choice", "reasoning_effort"},
        has_embeddings=True,
        has_images=True,
    ),
    Provider(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        chat=BASIC | PENALTIES | FORMATS | {"n", "seed", "tools", "tool_choice", "parallel_tool_calls"},
        has_embeddings=True,
        says_usage=False,  # it does so unasked, and refuses fields it does not know
        wire_names={"seed": "random_seed"},
    ),
    Provider(
        name="deepseek",
        base_url="https://api.deepseek.com/v1",
        key_variable="DEEPSEEK_API_KEY",
        chat=BASIC | {"json_object", "logprobs", "tools", "tool_choice", "reasoning_effort", "reasoning_content"},
        defaults=OPENAI_DEFAULTS,
    ),
    Provider(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        key_variable="GROQ_API_KEY",
        chat=BASIC | FORMATS | {"seed", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"},
        defaults=OPENAI_DEFAULTS,
        wire_names={"max_tokens": "max_completion_tokens"},
    ),
    Provider(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        key_variable="OPENROUTER_API_KEY",
        chat=BASIC
        | PENALTIES
        | FORMATS
        | {"seed", "logit_bias", "logprobs", "top_k", "min_p", "repetition_penalty"}
        | {"tools", "tool_choice", "parallel_tool_calls"},
        defaults={**OPENAI_DEFAULTS, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        extra={"provider": {"require_parameters": True}},  # else it may choose a host that ignores some
    ),
    Provider(
        name="together",
        base_url="https://api.together.xyz/v1",
        key_variable="TOGETHER_API_KEY",
        chat=BASIC
        | PENALTIES
        | FORMATS
        | {"n", "seed", "logit_bias", "top_k", "min_p", "repetition_penalty", "tools", "tool_choice"},
        completions=BASIC | PENALTIES | {"n", "seed", "logit_bias", "top_k", "min_p", "repetition_penalty"},
        has_embeddings=True,
        has_images=True,
    ),
    Provider(
        name="ollama",
        base_url="http://127.0.0.1:11434/v1",
        key_variable="OLLAMA_API_KEY",
        needs_key=False,
        chat=BASIC | PENALTIES | FORMATS | {"seed", "tools", "logprobs", "reasoning_effort"},
        completions=BASIC | PENALTIES | {"seed", "suffix"},
        has_embeddings=True,
        defaults=OPENAI_DEFAULTS,
        lists_models=True,
    ),
    Provider(
        name="vllm",
        key_variable="VLLM_API_KEY",
        needs_key=False,
        chat=OPENAI_CHAT | SAMPLERS | GRAMMARS | TEMPLATES | {"cache_salt"},
        completions=OPENAI_COMPLETIONS - {"best_of", "suffix"} | SAMPLERS | GRAMMARS | {"json_object", "cache_salt"},
        has_embeddings=True,
        has_tokenize=True,
        takes_token_ids=True,
        structured_outputs=True,
        lists_models=True,
    ),
    Provider(  # another server of this package
        name="kit",
        key_variable="LLMAPI_KIT_API_KEY",
        needs_key=False,
        chat=OPENAI_CHAT | SAMPLERS | GRAMMARS | TEMPLATES | {"typical_p", "num_beams", "length_penalty"},
        completions=OPENAI_COMPLETIONS | SAMPLERS | GRAMMARS | {"typical_p", "num_beams", "length_penalty"},
        has_embeddings=True,
        has_images=True,
        has_tokenize=True,
        takes_token_ids=True,
        lists_models=True,
    ),
    Provider(  # any other server with OpenAI's API
        name="compatible",
        needs_key=False,
        completions=OPENAI_COMPLETIONS,
        has_embeddings=True,
        has_images=True,
        takes_token_ids=True,
        lists_models=True,
    ),
    Provider(
        name="welm",
        base_url="https://welm.weixin.qq.com/v1",
        key_variable="WELM_API_KEY",
        chat=frozenset(),
        completions=BASIC | {"top_k", "n", "echo"},
        streams=False,
        says_usage=False,
        only_continues=True,
    ),
)
PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in _ALL}


def provider_of(name: str) -> Provider:
    """The provider of a name.

    Raises:
        ModelNotFoundError: nobody has it; the message lists the known ones.
    """
    provider = PROVIDERS.get(name)
    if provider is None:
        raise ModelNotFoundError(f"There is no provider {name!r}. Known are: {', '.join(PROVIDERS)}.")
    return provider
