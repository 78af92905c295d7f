"""The decoder of a model that sees, as a causal language model that shares its weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.modeling_outputs import CausalLMOutput

from llmapi_kit.errors import UnsupportedModelError

DECODERS = ("language_model", "text_model")
RECURRENT_LAYERS = {"conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba"}
# Causal models of their own for these, which `LeanDecoder` and `NativeDecoder` know; the others get one of one kind
PLAIN = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


class SeeingDecoder(transformers.PreTrainedModel):  # type: ignore[no-untyped-call]
    """A decoder and an output layer, for families whose decoder is not a causal language model by itself.

    Args:
        config: of the decoder.
        decoder: from vectors to hidden states.
        head: from these to logits.
    """

    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: Any, decoder: Any, head: Any) -> None:
        super().__init__(config)
        self.model = decoder
        self.lm_head = head

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers would look for experts in this file

    def get_output_embeddings(self) -> Any:
        """The output layer."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Take another output layer."""
        self.lm_head = new_embeddings

    def forward(self, logits_to_keep: int | torch.Tensor = 0, **inputs: Any) -> CausalLMOutput:
        """Logits, as the model it is part of makes them."""
        output = self.model(**inputs)
        states = output.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(states[:, keep])
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return CausalLMOutput(logits=logits, hidden_states=(states,))


def extract_decoder(model: Any, name: str) -> Any:
    """The decoder of a model for images and text, as a causal language model that shares its weights.

    Args:
        model: of transformers, with its weights.
        name: the model's, for messages.

    Raises:
        UnsupportedModelError: it has no decoder that only needs tokens and the vectors of pictures.
    """
    kind = type(model).__name__
    body = getattr(model, "model", None)
    inner = next((getattr(body, part) for part in DECODERS if hasattr(body, part)), None)
    if inner is None or not hasattr(model, "lm_head"):
        raise UnsupportedModelError(f"{name} can't be served: {kind} has no decoder that is known here.")
    config = model.config.get_text_config()
    if RECURRENT_LAYERS & set(getattr(config, "layer_types", None) or ()):
        raise UnsupportedModelError(
            f"{name} can't be served: {kind} is recurrent: it keeps a state in place of keys and values of each token."
        )
    plain = getattr(transformers, PLAIN.get(config.model_type, ""), None)
    decoder: Any
    if plain is None:
        decoder = SeeingDecoder(config, inner, model.lm_head)
    else:
        with torch.device("meta"):
            decoder = plain(config)
        decoder.model = inner
        decoder.lm_head = model.lm_head
    decoder.config.tie_word_embeddings = model.config.tie_word_embeddings
    decoder.generation_config = model.generation_config
    return decoder.eval()
