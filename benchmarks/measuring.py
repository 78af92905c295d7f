"""What the benchmark scripts share: their options, and how a load is put on a server."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import BenchModel, default_work_folder
from benchmarks.processes import ServerProcess

ROOT = Path(__file__).resolve().parent.parent
LOAD_TIMEOUT_S = 1800


class LoadFailedError(Exception):
    """A measurement failed; the message says why and has the end of the server's log."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all scripts take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of everything, in turns; default: 3")
    parser.add_argument("--min-s", type=float, default=3.0, help="a measurement lasts at least so long; default: 3")
    parser.add_argument("--quick", action="store_true", help="a few tokens, one round: does it work?")
    parser.add_argument("--work", type=Path, default=default_work_folder(), help="models, environments, logs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where reports go")
    return parser


def numbers(text: str) -> list[int]:
    """Reads ``1,8,32``."""
    return [int(number) for number in text.split(",")]


def command_line(module: str, argv: Sequence[str] | None) -> str:
    """What was typed, for the report."""
    return " ".join([f"python -m benchmarks.{module}", *(sys.argv[1:] if argv is None else argv)])


def write_results(folder: Path, name: str, markdown: str, data: Any) -> None:
    """Print a report, and write it as ``name.md`` and its data as ``name.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown.rstrip() + "\n")
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"\n{markdown.rstrip()}\n\nWritten to {folder}: {name}.md, {name}.json", flush=True)


def run_load(
    server: ServerProcess,
    *,
    model: str,
    key: str | None = None,
    words: BenchModel | None = None,
    fields: Mapping[str, Any] | None = None,
    **options: float,
) -> dict[str, Any]:
    """Put a load on a server, from a process of its own, and hold the server still again afterwards.

    Args:
        server: held still, or running.
        model: as the server calls it.
        key: bearer key.
        words: whose words the prompts are made of.
        fields: more fields of each request.
        options: of `benchmarks.load`: ``streams``, ``max_tokens``, …

    Returns:
        The fields of `benchmarks.load.LoadResult`.

    Raises:
        LoadFailedError: a request failed, or made another number of tokens than asked for.
    """
    command = [sys.executable, "-m", "benchmarks.load", f"{server.url}/v1/chat/completions", "--model", model]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    if words is not None:
        command += ["--words", str(words.words)]
    command += ["--fields", json.dumps(dict(fields or {}))]
    env = {**os.environ, **({"LLMAPI_KIT_API_KEY": key} if key else {})}
    server.go_on()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=LOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as exc:
        raise LoadFailedError(f"not done after {LOAD_TIMEOUT_S} s. Its log ends:\n{server.log_tail()}") from exc
    finally:
        server.hold()
    result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"errors": [done.stderr[-1000:]]}
    if result["errors"]:
        problem = "\n".join(result["errors"])
        raise LoadFailedError(f"{problem}\nIts log ends:\n{server.log_tail()}")
    return result
