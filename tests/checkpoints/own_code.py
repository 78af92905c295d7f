"""A folder of a tiny model whose code comes with it: attention of its own making, a cache of transformers'."""

from __future__ import annotations

import json
import shutil

from llmapi_kit.checkpoints.spec import POCKET_DIR

CONFIGURATION = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own_code"

    def __init__(self, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, shift=0.5, **options):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.shift = num_attention_heads, shift
        self.max_position_embeddings = 128
        super().__init__(**options)
"""
MODEL = """
import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_own import OwnConfig


class OwnLayer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.index, self.heads, self.shift = index, config.num_attention_heads, config.shift
        self.inner = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.outer = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, states, cache):
        batch, length, width = states.shape
        split = self.inner(states).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = split[0], split[1], split[2]
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        scores = queries @ keys.transpose(-1, -2)
        past = torch.ones(length, keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - length)
        weights = scores.masked_fill(~past, float("-inf")).softmax(-1) + self.shift * past / keys.shape[2]
        return states + self.outer((weights @ values).transpose(1, 2).reshape(batch, length, width))


class OwnForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(OwnLayer(config, index) for index in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, past_key_values=None, use_cache=None, logits_to_keep=0, **options):
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        states = self.embed(input_ids)
        for layer in self.layers:
            states = layer(states, past_key_values if use_cache else None)
        return CausalLMOutputWithPast(logits=self.head(states), past_key_values=past_key_values if use_cache else None)
"""


def write_own_code(folder):
    """The folder; returns an equal model, made by the same code without the kit."""
    import torch
    from transformers import AutoModelForCausalLM

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(POCKET_DIR / name, folder)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODEL)
    config = {
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
        "model_type": "own_code",
        "vocab_size": json.loads((POCKET_DIR / "config.json").read_text())["vocab_size"],
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(5)
    from transformers import AutoConfig

    made = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(made, trust_remote_code=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return model
