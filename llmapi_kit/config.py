"""Settings of the kit: limits, timeouts and places, each with the environment variable that changes it.

Knows nothing of what uses them. Every field `x` can be set as ``LLMAPI_KIT_X`` in the environment, or as an argument
where a function takes settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from llmapi_kit.errors import ConfigError

Seconds = Annotated[float, Field(gt=0, le=86400)]
CompatApi = Literal["sessions", "glm", "alpaca", "eventsource"]


class Settings(BaseSettings):
    """All settings, immutable. Times are in seconds, sizes in bytes.

    Attributes:
        home: where state lives (registry of servers, keys); the user's data folder unless set.
        max_slots: requests answered at once, memory allowing.
        context_length: tokens a request may have, prompt and answer, where the model allows it; 0 is the
            model's own limit.
        kv_memory: bytes for keys and values; 0 takes a share of what is free.
        num_threads: CPU threads of a model's step; 0 chooses by its size.
        native: compute the steps of Llama-like models on a CPU in C, compiled at the first load where there is a
            compiler; False computes them in torch.
        compile: decode through `torch.compile`, for Llama-like models: takes a minute at the first load and is kept.
            It is meant for GPUs; on a CPU it needs a C++ compiler and is slower than `native`, whose place it takes.
        step_tokens: most tokens computed in one step; smaller is smoother for others, larger is faster for long
            prompts.
        prefix_cache: what a prompt's beginning may be reused for: ``per_key`` keeps the API keys apart (how fast an
            answer starts would tell one what another asked), ``shared`` does not, ``off`` reuses nothing.
        max_stall_s: how long the prefill of a new prompt may hold up running streams in one step, about.
        max_queue: requests that may wait for a slot; 0 is four times the slots, at most 128.
        max_body_bytes: size of a request's body, counted as received.
        max_json_depth: nesting of a request's JSON.
        max_stored_completions: chat completions that the server keeps in memory for clients that ask for it with
            ``store``, the latest ones; 0 keeps none and refuses the field.
        max_stored_bytes: what they may take together, counted as JSON.
        compat: older APIs that are answered beside OpenAI's; in the environment a list with commas between, or nothing
            for none.
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
    max_stall_s: Annotated[float, Field(gt=0, le=60)] = 0.2
    prefix_cache: Literal["per_key", "shared", "off"] = "per_key"
    max_queue: int = Field(default=0, ge=0, le=100_000)
    max_body_bytes: int = Field(default=2_000_000, ge=1024)
    max_json_depth: int = Field(default=64, ge=4, le=500)
    max_stored_completions: int = Field(default=1000, ge=0, le=100_000)
    max_stored_bytes: int = Field(default=64_000_000, ge=1024)
    compat: Annotated[tuple[CompatApi, ...], NoDecode] = ()
    queue_timeout_s: Seconds = 60
    first_token_timeout_s: Seconds = 120
    total_timeout_s: Seconds = 600
    stalled_reader_s: Seconds = 30
    keep_alive_s: Seconds = 15
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 5
    start_timeout_s: Seconds = 30

    @field_validator("compat", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A text with commas is a list."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

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
        raise ConfigError(f"Unknown setting {unknown[0]!r}. Settings are: {', '.join(Settings.model_fields)}.")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as exc:
        problem = exc.errors()[0]
        name = str(problem["loc"][0])
        variable = f"LLMAPI_KIT_{name.upper()}"
        where = f" (from {variable})" if name not in given and variable in os.environ else ""
        raise ConfigError(f"Setting {name} is {problem['input']!r}{where}: {problem['msg']}.") from exc
