"""LoRA adapters for tests, made by PEFT, and what PEFT makes of them."""

from __future__ import annotations

import copy
import functools
import json
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from llmapi_kit.checkpoints.spec import POCKET_DIR

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def quietly(make):
    """PEFT reads an attribute that transformers has renamed, and warns of tied embeddings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


@functools.lru_cache(maxsize=2)
def _pocket(dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=dtype).eval()


def pocket(dtype=torch.float32):
    """The pocket model, to be changed at will."""
    return copy.deepcopy(_pocket(dtype))


def tiny(**shape):
    torch.manual_seed(0)
    config = {
        "vocab_size": 60,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        **shape,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()


def save_adapter(folder, base, *, strength=0.25, **options):
    """Wrap a model, give the adapter random weights that change answers, and save it."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    wrapped = quietly(lambda: get_peft_model(base, config))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * strength)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    quietly(lambda: wrapped.save_pretrained(folder))
    return folder


def greedy(model, tokenizer, question):
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=0)
    return made[0, inputs["input_ids"].shape[1] :].tolist()


def by_peft(folder, base=None):
    return quietly(lambda: PeftModel.from_pretrained(base or pocket(), folder).eval())


def set_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
