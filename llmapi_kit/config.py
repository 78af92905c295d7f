"""Settings of the kit: limits, timeouts and places, each with the environment variable that changes it.

Knows nothing of what uses them. Every field `x` can be set as ``LLMAPI_KIT_X`` in the environment, or as an argument
where a function takes settings.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError

KEY_VARIABLE = "LLMAPI_KIT_API_KEY"  # the key that a server asks for, and that a client sends
DAY_S = 86400
Seconds = Annotated[float, Field(gt=0, le=DAY_S)]
LongSeconds = Annotated[float, Field(gt=0, le=10 * 365 * DAY_S)]
CompatApi = Literal["sessions", "glm", "alpaca", "eventsource"]

# Browsers leave out the port that a scheme has anyway.
ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?"
)
INSTRUCTION = "{instruction}"
# By name, the format that models were trained on, to the letter.
INSTRUCTION_TEMPLATES = {
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n\n{instruction}\n\n### Response:\n\n",
}


class Settings(BaseSettings):
    """All settings, immutable. Times are in seconds, sizes in bytes.

    Attributes:
        home: where state lives (registry of servers, keys, database); the user's data folder unless set.
        max_slots: requests answered at once, memory allowing.
        context_length: tokens a request may have, prompt and answer, where the model allows it; 0 is the
            model's own limit.
        kv_memory: bytes for keys and values; 0 takes a share of what is free. On a CPU the slots share it and take
            pages of it as they grow; when there are none left, the request that came last waits and goes on later.
        num_threads: CPU threads of a model's step; 0 chooses by its size.
        native: compute the steps of Llama-like models on a CPU in C, compiled at the first load where there is a
            compiler; False computes them in torch.
        compile: decode through `torch.compile`, for Llama-like models: takes a minute at the first load and is kept.
            It is meant for GPUs; on a CPU it needs a C++ compiler and is slower than `native`, whose place it takes.
        step_tokens: most tokens computed in one step; smaller is smoother for others, larger is faster for long
            prompts.
        prefix_cache: what a prompt's beginning may be reused for: ``per_key`` keeps the API keys apart (how fast an
            answer starts would tell one what another asked), ``shared`` does not, ``off`` reuses nothing.
        draft: ``prompt-lookup`` guesses what an answer goes on with from what followed the same tokens earlier, and
            computes several guesses in one step: answers stay as they are, and come sooner where they repeat their
            prompt. A small model's name or folder has that model guess, which must have the same vocabulary. ``off``
            guesses nothing.
        draft_tokens: most tokens that are guessed at once; fewer where they do not come true, or cost too much.
        step_timeout_s: for models in a process of their own: a step that takes longer hangs, so the process is ended,
            its requests get an error each and the model is loaded again; likewise where the process does not answer
            for as long. 0 waits for ever.
        max_stall_s: how long the prefill of a new prompt may hold up running streams in one step, about.
        default_max_tokens: most tokens of an answer where a request does not say; 0 goes on to the end of the context.
        max_queue: requests that may wait for a slot; 0 is four times the slots, at most 128.
        idle_unload_s: after how long without a request a model that was loaded when it was asked for is unloaded; 0
            for never.
        download_stall_s: how long a download may stay without a byte before it is begun again where it stopped.
        load_wait_s: how long a request waits for its model to load before it is told to come back.
        request_log: keep a line for each request: its key, model, tokens, status and time, never what was asked.
        max_body_bytes: size of a request's body, counted as received.
        max_image_body_bytes: the same where a model that sees is served, as pictures come in the body.
        image_hosts: from which hosts the pictures of a request may be fetched, at public addresses only; in the
            environment with commas between. None unless set: pictures come as ``data:`` URLs.
        max_images: pictures that a request may have.
        max_image_pixels: width times height of each.
        max_json_depth: nesting of a request's JSON.
        max_answers: how many answers a request may ask for with ``n``, and how many candidates with ``best_of``.
        max_stop_strings: how many stop strings it may have.
        database_url: where sessions, usage and stored completions are kept: ``sqlite:///path/to/file.db``,
            ``sqlite://`` for memory, or ``postgresql://user:password@host/database``, which several servers may share;
            empty for a file in `home`.
        database_timeout_s: how long a request may wait for another program's lock on the database, and, in Postgres,
            for a statement.
        session_expire_s: how long a session lives without a new turn.
        max_sessions: sessions that a key may have.
        max_stored_completions: chat completions that are kept for a key that asks for it with ``store``, the latest
            ones; 0 keeps none and refuses the field.
        max_stored_responses: responses that are kept for a key, the latest ones; 0 keeps none.
        max_stored_bytes: what those of a key may take together, completions and responses apart, counted as JSON.
        stored_expire_s: how long they are kept.
        compat: older APIs that are answered beside OpenAI's; in the environment a list with commas between, or nothing
            for none.
        bots: which model answers for a bot type of the session API: a mapping from bot types to model names, or to
            objects of ``model``, ``kind`` (``chat``, ``completion``, ``embedding``, ``image`` or ``echo``), ``system``,
            ``pre`` and ``post`` (lists of steps; see `llmapi_kit.sessions.steps.make_step`); in the environment as
            JSON.
        cors_origins: websites whose pages may call this server from a browser, with the key or a token: each an origin
            such as ``https://app.example.com`` or ``http://localhost:3000``; in the environment with commas between.
        event_token_s: how long a token for ``/chat-sse`` is good.
        instruction_template: what /v1/completions puts each prompt into, a text with ``{instruction}`` in it once;
            ``alpaca`` is that of Alpaca models. Empty gives prompts to the model as they are.
        upstream_connect_s: until a connection to a provider stands.
        upstream_answer_s: until a provider begins to answer; then it has `first_token_timeout_s` for the first piece.
            It is best shorter than `queue_timeout_s`, which ends a request without a word on who is to blame.
        upstream_silence_s: between two pieces of a provider's answer.
        upstream_retries: how often a provider that fails is asked again, before an answer has begun.
        upstream_retry_s: for how long that may go on.
        queue_timeout_s: until a request is accepted and started.
        first_token_timeout_s: until its first token.
        total_timeout_s: until it is complete.
        stalled_reader_s: until a client that stops reading is dropped.
        keep_alive_s: between comments on a quiet stream, so that proxies keep it open.
        drain_s: how long `stop()` lets running requests finish.
        start_timeout_s: until a server that does not come up is given up.
    """

    model_config = SettingsConfigDict(env_prefix="LLMAPI_KIT_", frozen=True, extra="forbid")

    home: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("llmapi_kit", appauthor=False)))
    max_slots: int = Field(default=32, ge=1, le=1024)
    context_length: int = Field(default=0, ge=0)
    kv_memory: int = Field(default=0, ge=0)
    num_threads: int = Field(default=0, ge=0, le=1024)
    native: bool = True
    compile: bool = False
    step_tokens: int = Field(default=512, ge=1, le=1_000_000)
    step_timeout_s: Annotated[float, Field(ge=0, le=DAY_S)] = 300
    max_stall_s: Annotated[float, Field(gt=0, le=60)] = 0.2
    prefix_cache: Literal["per_key", "shared", "off"] = "per_key"
    draft: Annotated[str, Field(min_length=1)] = "off"
    draft_tokens: int = Field(default=8, ge=1, le=32)
    default_max_tokens: int = Field(default=0, ge=0, le=10_000_000)
    max_queue: int = Field(default=0, ge=0, le=100_000)
    idle_unload_s: Annotated[float, Field(ge=0, le=30 * DAY_S)] = 0
    download_stall_s: Seconds = 30
    load_wait_s: Seconds = 60
    request_log: bool = True
    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    max_image_body_bytes: int = Field(default=20_000_000, ge=1024)
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_images: int = Field(default=8, ge=1, le=1000)
    max_image_pixels: int = Field(default=16_000_000, ge=1024, le=178_000_000)
    max_json_depth: int = Field(default=64, ge=4, le=500)
    max_answers: int = Field(default=4, ge=1, le=16)
    max_stop_strings: int = Field(default=4, ge=1, le=16)
    database_url: SecretStr = SecretStr("")  # it may have a password
    database_timeout_s: Seconds = 10
    session_expire_s: LongSeconds = 7 * DAY_S
    max_sessions: int = Field(default=1000, ge=1, le=1_000_000)
    max_stored_completions: int = Field(default=1000, ge=0, le=100_000)
    max_stored_responses: int = Field(default=1000, ge=0, le=100_000)
    max_stored_bytes: int = Field(default=64_000_000, ge=1024)
    stored_expire_s: LongSeconds = 30 * DAY_S
    compat: Annotated[tuple[CompatApi, ...], NoDecode] = ("sessions", "glm", "alpaca", "eventsource")
    bots: Annotated[dict[str, Any], NoDecode] = Field(default_factory=dict)
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    event_token_s: Annotated[int, Field(ge=1, le=3600)] = 300
    instruction_template: str = ""
    upstream_connect_s: Seconds = 10
    upstream_answer_s: Seconds = 30
    upstream_silence_s: Seconds = 60
    upstream_retries: int = Field(default=2, ge=0, le=10)
    upstream_retry_s: Annotated[float, Field(ge=0, le=3600)] = 20
    queue_timeout_s: Seconds = 60
    first_token_timeout_s: Seconds = 120
    total_timeout_s: Seconds = 600
    stalled_reader_s: Seconds = 30
    keep_alive_s: Seconds = 15
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 30
    start_timeout_s: Seconds = 30

    @field_validator("compat", "cors_origins", "image_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A text with commas is a list."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("bots", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        """A text is JSON."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError as exc:
            raise ValueError(f"it is not JSON: {exc}") from exc

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Each as a browser writes it, as it is compared to the letter."""
        for value in values:
            if value in ("*", "null"):
                raise ValueError(f"{value!r} would let in pages that anybody can make. Name each website's origin")
            if not ORIGIN.fullmatch(value):
                raise ValueError(
                    f"{value[:200]!r} is not an origin. Write scheme://host or scheme://host:port in lower case, "
                    "without path and without the scheme's own port, such as https://app.example.com"
                )
        return values

    @field_validator("image_hosts")
    @classmethod
    def _check_hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """Names alone, in lower case, as a URL's host is compared with them."""
        for value in values:
            if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
                raise ValueError(f"{value[:200]!r} is not a host name. Write one such as images.example.com")
        return tuple(value.lower() for value in values)

    @field_validator("instruction_template")
    @classmethod
    def _check_template(cls, value: str) -> str:
        """The text of a template that has a name; any other is checked."""
        template = INSTRUCTION_TEMPLATES.get(value, value)
        if template and template.count(INSTRUCTION) != 1:
            raise ValueError(
                f"it needs {INSTRUCTION} exactly once, where the prompt goes, or is one of: "
                f"{', '.join(INSTRUCTION_TEMPLATES)}"
            )
        return template

    def folder(self, name: str) -> Path:
        """A folder under `home` that only this user can read; made if it is missing.

        Raises:
            ConfigError: it can't be made or is not writable.
        """
        path = self.home / name
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.chmod(0o700)
        except OSError as exc:
            raise ConfigError(
                f"The state folder {path} can't be used: {exc}. Set LLMAPI_KIT_HOME to a folder you can write to."
            ) from exc
        return path


def load_settings(**overrides: object) -> Settings:
    """Settings from arguments, then the environment, then defaults. None means not given.

    Raises:
        ConfigError: a value is out of range or a name is unknown; the message names it and says where it came from.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        hint = did_you_mean(unknown[0], Settings.model_fields)
        raise ConfigError(f"Unknown setting {unknown[0]!r}.{hint} Settings are: {', '.join(Settings.model_fields)}.")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as exc:
        problem = exc.errors()[0]
        message = str(problem["msg"]).removeprefix("Value error, ")
        name = str(problem["loc"][0])
        variable = f"LLMAPI_KIT_{name.upper()}"
        where = f" (from {variable})" if name not in given and variable in os.environ else ""
        raise ConfigError(f"Setting {name} is {problem['input']!r}{where}: {message}.") from exc
