"""Peak memory of a load, in a process of its own: what was loaded before would hide it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR

pytestmark = pytest.mark.slow

LOAD = """
import json, sys
from pathlib import Path

import llmapi_kit as kit


def status(name):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))


kit.load("pocket")  # everything is imported
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
model = kit.load(sys.argv[1], max_slots=1, context_length=256)
print(json.dumps({"grown": (status("VmHWM") - before) * 1024, "dtype": model.engine.info.dtype}))
"""
MARGIN = 60_000_000  # tokenizer, grammar, working memory of a step, and what threads of a loaded machine hold at once


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the peak")
def test_loading_bfloat16_weights_takes_little_more_than_their_size(tmp_path):
    folder = tmp_path / "wide"
    shutil.copytree(POCKET_DIR, folder)
    config = transformers.AutoConfig.from_pretrained(
        folder, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=8, head_dim=128
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    size = sum(p.nbytes for p in model.parameters())
    assert 0.7 * size > MARGIN  # another copy would be seen
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["dtype"] == "float32"
    assert told["grown"] < 1.3 * size + MARGIN
