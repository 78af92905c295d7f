"""The files of deploy/, as the programs that read them see them."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import typer
import yaml

from llmapi_kit.cli.app import app
from llmapi_kit.cli.serve_flags import KEY_VARIABLE
from llmapi_kit.config import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# `${NAME:-default}` and `${NAME:?message}` of Compose
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")
# What others read from the environment: libpq, huggingface_hub and Ray
OTHERS_VARIABLES = {"PGPASSWORD", "HF_TOKEN", "HF_HOME", "RAY_USAGE_STATS_ENABLED"}
SYSTEM_VARIABLES = {
    "HOME",
    "XDG_CACHE_HOME",
    "PYTHONUNBUFFERED",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
}


def documents(path: str) -> list[dict]:
    """The documents of a file of YAML."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


def defaults(value: typing.Any) -> typing.Any:
    """A value of a Compose file where nothing is set in the environment but what has to be."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: found["text"] if found["kind"] == "-" else "x" * 16, value)
    if isinstance(value, dict):
        return {name: defaults(each) for name, each in value.items()}
    return [defaults(each) for each in value] if isinstance(value, list) else value


def parsed(arguments: list[str]) -> dict[str, typing.Any]:
    """What the kit's own command line understands."""
    name, *rest = arguments
    return typer.main.get_command(app).commands[name].make_context(name, list(rest)).params


def unknown_variables(names: typing.Iterable[str]) -> set[str]:
    """Those names that nothing in a container reads."""
    ours = {f"LLMAPI_KIT_{name.upper()}" for name in Settings.model_fields} | {KEY_VARIABLE}
    return set(names) - ours - OTHERS_VARIABLES - SYSTEM_VARIABLES


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of each line of the Dockerfile, with lines that go on put together."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, re.sub(r"\s+", " ", rest)) for word, _, rest in (line.partition(" ") for line in lines if line)]
