"""guidellm: a moment of load on the chat and on the completions route, by its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from steps import FRANCE, Steps

step = Steps()
GUIDELLM = Path(sys.executable).with_name("guidellm")
NUM_REQUESTS, NUM_TOKENS = 4, 8


def measure(name, route, *, num_tokens=None, **options):
    """(requests that came through, what was wrong with others, whether each had the tokens it should)."""
    row = {"prompt": FRANCE, **({"output_tokens_count": num_tokens} if num_tokens else {})}
    backend = {
        "kind": "openai_http",
        "target": os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
        "api_key": os.environ["OPENAI_API_KEY"],
        "model": "pocket",
        "request_format": route,
        "max_tokens": 32,
        **options,
    }
    spec = {
        "backend": backend,
        "profile": {"kind": "concurrent", "streams": [2]},
        "constraints": [{"kind": "max_requests", "count": NUM_REQUESTS}],
        "data": [{"kind": "in_memory_dict_list", "data": [row] * NUM_REQUESTS}],
        "outputs": [{"kind": "json", "path": f"{name}-report.json"}],
    }
    Path(f"{name}.json").write_text(json.dumps({"spec": spec}))
    command = [GUIDELLM, "run", "-c", f"{name}.json", "--disable-console"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    requests = json.loads(Path(f"{name}-report.json").read_text())["benchmarks"][0]["requests"]
    lengths = [each["output_metrics"]["text_tokens"] for each in requests["successful"]]
    has_length = all(length == num_tokens if num_tokens else length > 0 for length in lengths)
    return [len(lengths), [each["info"]["error"] for each in requests["errored"]], has_length]


@step
def chat():
    return measure("chat", "/v1/chat/completions")


@step
def chat_of_a_length():
    return measure("length", "/v1/chat/completions", num_tokens=NUM_TOKENS)


@step
def completions_of_a_length():
    return measure("completions", "/v1/completions", num_tokens=NUM_TOKENS)


step.run()
