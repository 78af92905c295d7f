"""A virtual environment for each peer, kept between runs.

Peers run in environments of their own, so that neither their versions nor ours give way. torch is pinned to the version
that runs here: an open range would bring another one, and gigabytes of CUDA with it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.models import default_work_folder

INSTALL_TIMEOUT_S = 3600
LLAMA_CPP_PYTHON = "0.3.36"


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message has the end of pip's output."""


def requirements(name: str) -> list[str]:
    """What is installed into an environment.

    Raises:
        KeyError: there is no such environment.
    """
    torch, transformers, xllamacpp = (
        version(package).split("+")[0] for package in ("torch", "transformers", "xllamacpp")
    )
    return {
        "transformers": [f"transformers[serving]=={transformers}", f"torch=={torch}"],
        "llama_cpp": [f"llama-cpp-python[server]=={LLAMA_CPP_PYTHON}"],  # compiles: about 5 minutes on 2 cores
        "xllamacpp": [f"xllamacpp=={xllamacpp}"],  # the libllama that runs here, so that servers alone differ
    }[name]


def make_environment(name: str, work: Path) -> Path:
    """Make an environment under `work`, or find the one that is there.

    Returns:
        Its folder of programs.

    Raises:
        EnvironmentFailedError: pip failed.
    """
    folder = work / "environments" / name
    stamp = folder / "requirements.txt"
    wanted = "\n".join(requirements(name))
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"Making the environment of {name}; the first time takes minutes ...", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(["nice", "-n", "5", str(folder / "bin" / "python"), "-m", "pip", "install", *wanted.splitlines()])
        stamp.write_text(wanted)
    return folder / "bin"


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise EnvironmentFailedError(f"{' '.join(command)} failed:\n{tail}")


def main() -> None:
    """Make the environments and say where they are."""
    parser = argparse.ArgumentParser(description="Make the environments of the peers.")
    parser.add_argument("names", nargs="*", default=["transformers", "llama_cpp", "xllamacpp"])
    parser.add_argument("--work", type=Path, default=default_work_folder(), help="where they go")
    args = parser.parse_args()
    for name in args.names:
        print(f"{name}: {make_environment(name, args.work)}")


if __name__ == "__main__":
    main()
