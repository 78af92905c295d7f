"""Measures embedding throughput: this kit over HTTP, beside sentence-transformers' `encode` on the same texts.

Texts are of mixed lengths. The kit answers several clients at once, each of which sends some texts a request and asks
for base64, as the openai client does. `encode` gets all texts in one call, which suits it best; and, as a server around
it would have it, the texts of one request a call, one call after the other. Each in a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import ROOT, command_line, make_parser, write_results

KIT, WHOLE, PER_REQUEST = "this kit, over HTTP", "encode, all texts in one call", "encode, a request's texts a call"
MEDIAN_WORDS, SPREAD, MAX_WORDS = 20, 0.9, 180
TIMEOUT_S = 1800
# Reads folders, encodes what comes, and says how long that took: a line in, a line out
ENCODE = """
import json, sys, time
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
model.encode(["to have it ready"])
print("ready", flush=True)
for line in sys.stdin:
    calls = json.loads(line)
    started = time.perf_counter()
    vectors = [vector for texts in calls for vector in model.encode(texts, normalize_embeddings=True)]
    took = time.perf_counter() - started
    print(json.dumps([took, [float(x) for x in vectors[-1]]]), flush=True)
"""
SERVE = """
import json, sys
import llmapi_kit as kit
server = kit.launch(kit.load_embeddings(sys.argv[1], served_name="model", normalize=True), port=0)
print(json.dumps([server.url, server.api_key]), flush=True)
sys.stdin.read()
server.stop()
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    texts = make_texts(args.texts)
    requests = [texts[at : at + args.batch] for at in range(0, len(texts), args.batch)]
    peers = {WHOLE: [texts], PER_REQUEST: requests} if _has_peer(args.python) else {}
    took: dict[str, list[float]] = {name: [] for name in (KIT, *peers)}
    difference = 0.0
    with contextlib.ExitStack() as programs:
        server = programs.enter_context(_started(args.python, SERVE, args.model))
        url, key = json.loads(server.stdout.readline())
        if peers:
            peer = programs.enter_context(_started(args.python, ENCODE, args.model))
            peer.stdout.readline()
        for _ in range(args.repeats):
            seconds, ours = ask(url, key, requests, args.clients)
            took[KIT].append(seconds)
            for name, calls in peers.items():
                seconds, theirs = encode(peer, calls)
                took[name].append(seconds)
                difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    rates = {name: median([len(texts) / seconds for seconds in values]) for name, values in took.items()}
    machine = describe_machine()
    lines = ["# Embedding throughput", "", f"Made by `{command_line('embeddings', argv)}`.", "", machine_line(machine)]
    if args.quick:
        lines += ["", "**A quick run: it shows that everything works and measures nothing.**"]
    load = f"{len(texts)} texts, half of them longer than {MEDIAN_WORDS} words; {args.clients} clients, "
    load += f"{args.batch} texts a request; medians over {args.repeats} rounds."
    compared = f"Vectors differ by {difference:.1e} at most." if peers else "sentence-transformers is not installed."
    lines += ["", f"{load} {compared}"]
    lines += ["", "| | Texts a second | This kit makes |", "|---|---|---|"]
    lines += [
        f"| {name} | {shown(rate)} | {shown(ratio(rates[KIT], rate))} times that |" for name, rate in rates.items()
    ]
    data = {"machine": machine, "seconds": took, "num_texts": len(texts)}
    write_results(args.results, "embeddings", "\n".join(lines), data)
    return 0


def make_texts(num: int) -> list[str]:
    """Texts of mixed lengths, the same ones each time."""
    draw = random.Random(1)
    words = (ROOT / "README.md").read_text(encoding="utf-8").lower().split()
    lengths = [min(MAX_WORDS, int(MEDIAN_WORDS * draw.lognormvariate(0, SPREAD)) + 1) for _ in range(num)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths]


def ask(url: str, key: str, requests: Sequence[list[str]], num_clients: int) -> tuple[float, list[float]]:
    """Embed all of it over HTTP; seconds, and the last vector."""
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S, trust_env=False) as client:

        def embed(texts: list[str]) -> Any:
            body = {"input": texts, "encoding_format": "base64", "truncate": True}  # as encode() does
            answer = client.post(f"{url}/v1/embeddings", json=body)
            answer.raise_for_status()
            return answer.json()["data"]

        with ThreadPoolExecutor(num_clients) as pool:
            started = time.perf_counter()
            answers = list(pool.map(embed, requests))
            seconds = time.perf_counter() - started
    packed = base64.b64decode(answers[-1][-1]["embedding"])
    return seconds, list(struct.unpack(f"<{len(packed) // 4}f", packed))


def encode(peer: Any, calls: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Embed all of it by `encode`; seconds, and the last vector."""
    peer.stdin.write(json.dumps(calls) + "\n")
    peer.stdin.flush()
    seconds, vector = json.loads(peer.stdout.readline())
    return seconds, vector


def _has_peer(python: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('sentence_transformers') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


@contextlib.contextmanager
def _started(python: str, code: str, folder: str) -> Iterator[Any]:
    """A program that ends when its input does."""
    command = [python, "-c", code, folder]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        yield process
        if process.stdin is not None:
            process.stdin.close()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default=str(Path("llmapi_kit/checkpoints/pocket_embed")), help="a folder")
    parser.add_argument("--python", default=sys.executable, help="one that has sentence-transformers and this kit")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="texts a request")
    args = parser.parse_args(argv)
    if args.quick:
        args.texts, args.repeats = 32, 1
    return args


if __name__ == "__main__":
    sys.exit(main())
