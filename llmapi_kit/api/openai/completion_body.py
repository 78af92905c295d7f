"""Body of POST /v1/completions.

Source: OpenAI API reference, "Completions (legacy)".
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from llmapi_kit.api.openai.request_body import MAX_ANSWERS, UNLIMITED, GenerationBody
from llmapi_kit.config import INSTRUCTION
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    own_neutral = {  # noqa: RUF012 - declared as ClassVar in StrictModel
        "add_special_tokens": (True,),
        "response_format": ({"type": "text"},),
    }

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description=f"A text, token ids, or up to {MAX_PROMPTS} of either."
    )
    max_tokens: int | None = Field(
        None,
        description=f"At most this many new tokens, {DEFAULT_MAX_TOKENS} if left out; -1 for no limit. 0 with echo "
        "scores only.",
        json_schema_extra={"minimum": UNLIMITED},
    )
    suffix: str | None = Field(None, description="The text that follows; for models with fill-in-the-middle tokens.")
    echo: bool | None = Field(None, description="Give the prompt too; with logprobs, its tokens are scored.")
    best_of: int | None = Field(
        None,
        description=f"Make this many candidates and send the n likeliest; 1 to 4, or to what the server's setting "
        f"max_answers says, {MAX_ANSWERS} at most.",
        json_schema_extra={"minimum": 1, "maximum": MAX_ANSWERS},
    )
    logprobs: int | None = Field(
        None,
        description="Report each token's log-probability and this many others, 0 to 5.",
        json_schema_extra={"minimum": 0, "maximum": 5},
    )

    def check(self) -> None:
        """See `GenerationBody`."""
        super().check()
        if self.suffix and self.echo:
            raise InvalidRequestError("echo does not go with suffix.", param="echo")
        if self.logprobs is not None and not 0 <= self.logprobs <= 5:
            raise InvalidRequestError(f"logprobs is {self.logprobs}; 0 to 5 are allowed.", param="logprobs")

    def requests(self, defaults: Mapping[str, float], cache_salt: str, template: str = "") -> list[GenerationRequest]:
        """What the engine is asked, one request a prompt.

        Args:
            defaults: the model's own sampling parameters.
            cache_salt: of the prompts.
            template: what each prompt is put into; see the setting `instruction_template`.

        Raises:
            InvalidRequestError: a value is out of range, or does not go with the template.
        """
        sampling = self.sampling(defaults, logprobs=self.logprobs)
        return [
            GenerationRequest(
                prompt=self._instruction(prompt, template) if template else prompt,
                suffix=self.suffix or None,
                length_penalty=1.0 if self.length_penalty is None else self.length_penalty,
                sampling=sampling,
                n=self.n or 1,
                best_of=self._num_candidates(),
                num_beams=self.num_beams or 1,
                echo=bool(self.echo),
                cache_salt=self._salted(cache_salt),
            )
            for prompt in self._prompts()
        ]

    def _prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            raise InvalidRequestError("prompt is empty; it needs a text or token ids.", param="prompt")
        ids = [each for each in prompt if isinstance(each, int)]
        if ids:
            return [ids]
        several = [each for each in prompt if not isinstance(each, int)]
        if len(several) > MAX_PROMPTS:
            raise InvalidRequestError(
                f"prompt has {len(several)} prompts; at most {MAX_PROMPTS} are allowed.", param="prompt"
            )
        return several

    def _instruction(self, prompt: str | list[int], template: str) -> str:
        """A prompt in the template; echo gives all of it, as it is what the model reads."""
        if not isinstance(prompt, str):
            raise UnsupportedFieldError(
                "This server puts every prompt into an instruction template, which takes texts and no token ids.",
                param="prompt",
            )
        if self.suffix:
            raise UnsupportedFieldError(
                "suffix does not go with the instruction template that this server puts every prompt into.",
                param="suffix",
            )
        before, _, after = template.partition(INSTRUCTION)
        return before + prompt + after

    def _num_candidates(self) -> int:
        """What `GenerationRequest.best_of` takes."""
        n, best_of = self.n or 1, self.best_of
        if best_of is None:
            return 0
        if not n <= best_of <= MAX_ANSWERS:
            raise InvalidRequestError(f"best_of is {best_of}; it must be n ({n}) to {MAX_ANSWERS}.", param="best_of")
        if self.stream and best_of > n:
            raise InvalidRequestError("best_of picks whole answers, so it does not go with stream.", param="best_of")
        return best_of

    def _max_tokens(self) -> int | None:
        if self.max_tokens == 0 and self.echo:
            return 0
        if UNLIMITED in (self.max_tokens, self.n_predict):
            return super()._max_tokens()
        given = super()._max_tokens()
        return DEFAULT_MAX_TOKENS if given is None else given
