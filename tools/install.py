"""Install packages with uv, which takes a sixth of pip's CPU time, and with pip where uv can't.

The arguments are those of ``pip install``, after ``--python PYTHON`` for another interpreter than the running one. uv
does not read pip's settings; where packages come from is handed on to it. Nothing is compiled in advance, as a small
part of all that is installed is ever imported.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
# pip's settings, and uv's options for each of their values
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
}
SECTIONS = ("global", "install", ":env:")  # a later one wins
TIMEOUT_S = 1800


def main(arguments: Sequence[str]) -> int:
    """The exit status of whichever installed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--python", default=sys.executable, help="the interpreter to install for")
    chosen, packages = parser.parse_known_args(arguments)
    ran = install(chosen.python, packages)
    if ran.returncode:
        print(ran.stdout, file=sys.stderr)
    return ran.returncode


def install(python: str, packages: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Install for an interpreter; when that fails, what pip printed, as uv's complaint may be about uv alone.

    Args:
        python: the interpreter.
        packages: arguments of ``pip install``.
        folder: what relative paths among them start from; the current one if not given.
    """
    if has_uv():
        settings = settings_of_pip()
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python, *uv_options(settings)]
        certificates = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
        ran = run([*uv, *packages], folder, {**os.environ, **certificates})
        if ran.returncode == 0:
            return ran
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check", "--no-compile"]
    return run([*pip, *packages], folder)


def has_uv() -> bool:
    """Whether uv is there, if need be after it was installed beside the running interpreter."""
    if importlib.util.find_spec("uv") is None:
        run([sys.executable, "-m", "pip", "install", "--no-compile", "-c", str(CONSTRAINTS), "uv"])
        importlib.invalidate_caches()
    return importlib.util.find_spec("uv") is not None


def settings_of_pip() -> dict[str, str]:
    """What pip is set to on this machine, by the names of its options."""
    return effective_settings(run([sys.executable, "-m", "pip", "config", "list"]).stdout)


def effective_settings(listed: str) -> dict[str, str]:
    """What counts of the lines that ``pip config list`` prints, such as ``global.find-links='/opt/wheels'``."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, setting = name.rpartition(".")
        if section in found:
            found[section][setting] = str(ast.literal_eval(value))
    return {setting: value for section in SECTIONS for setting, value in found[section].items()}


def uv_options(settings: Mapping[str, str]) -> list[str]:
    """The same for uv, which takes a package from the first index that has it, unless told to choose as pip does."""
    options = ["--index-strategy", "unsafe-best-match"]
    for setting, option in OPTIONS.items():
        for value in settings.get(setting, "").split():
            options += [option, value]
    return options


def run(
    command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it prints."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
