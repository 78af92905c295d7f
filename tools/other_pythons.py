"""Run the tests that need no torch on every other Python that is installed here.

For each of Python 3.10 to 3.13 but the running one: find an interpreter (on PATH, or among pyenv's), make a virtual
environment ``.venv-3.X`` with the package and what these tests need, and run the test modules marked ``kernel`` in
it. The environment is kept, and installed again when what goes into it changes.
Versions are tested side by side, one for every two cores, as `make test` runs this beside the tests on its own Python;
what pytest says is shown when one has ended.
Prints a line for each version; the exit status says whether all that are installed passed. `make test` runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
PINNED_ON = "3.11"  # the Python that constraints.txt was made on
REQUIREMENTS = ("pytest", "pytest-timeout", "hypothesis", "nbclient", "uvloop; sys_platform != 'win32'")
MARK = re.compile(r"pytest\.mark\.kernel\b")
INSTALL_TIMEOUT_S = 900
TEST_TIMEOUT_S = 1800


def main() -> int:
    """Run everything; 0 when every interpreter that is here passed."""
    parser = argparse.ArgumentParser(description="Run the kernel tests on the other Pythons that are installed.")
    parser.add_argument(
        "versions", nargs="*", default=VERSIONS, help="such as 3.12; all others than this one by default"
    )
    parser.add_argument("--install-only", action="store_true", help="make the environments, run no test")
    arguments = parser.parse_args()
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions = [version for version in arguments.versions if version != running]
    printing = threading.Lock()

    def report(version: str) -> Outcome:
        started = time.monotonic()
        outcome = check(version, install_only=arguments.install_only)
        line = f"Python {version}: {outcome.verdict} ({time.monotonic() - started:.0f} s)"
        with printing:
            print(f"{outcome.output}{line}", flush=True)
        return Outcome(line, has_failed=outcome.has_failed)

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        outcomes = list(pool.map(report, versions))
    if len(outcomes) > 1:
        print("\n".join(["", "Other Pythons:", *(outcome.verdict for outcome in outcomes)]))
    return int(any(outcome.has_failed for outcome in outcomes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one version.

    Attributes:
        verdict: in words.
        has_failed: whether that is a failure.
        output: what pytest printed.
    """

    verdict: str
    has_failed: bool = False
    output: str = ""


def check(version: str, *, install_only: bool) -> Outcome:
    """Install and test on one version."""
    interpreter = find_interpreter(version)
    if interpreter is None:
        return Outcome("not installed")
    folder = ROOT / f".venv-{version}"
    if (problem := install(interpreter, folder)) is not None:
        return Outcome(f"FAILED to install\n{problem}", has_failed=True)
    if install_only:
        return Outcome("installed")
    modules = kernel_modules()
    if not modules:
        return Outcome("FAILED: no test module is marked kernel", has_failed=True)
    command = [
        python_of(folder),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "kernel and not torch",
        *modules,
    ]
    try:
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TEST_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"FAILED: not done within {TEST_TIMEOUT_S} s", has_failed=True)
    verdict = "passed" if ran.returncode == 0 else f"FAILED (pytest exit {ran.returncode})"
    return Outcome(verdict, has_failed=ran.returncode != 0, output=ran.stdout)


def find_interpreter(version: str) -> str | None:
    """An interpreter of this version that really runs; a shim of pyenv may be there without one behind it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True),
    ]
    for candidate in filter(None, candidates):
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        try:
            ran = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if ran.returncode == 0 and ran.stdout.strip() == version:
            return candidate
    return None


def install(interpreter: str, folder: Path) -> str | None:
    """Bring the environment up to date; the end of pip's output when that fails."""
    stamp, wanted = folder / ".installed-from", fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    if (problem := run_quietly(interpreter, "-m", "venv", "--without-pip", str(folder))) is not None:
        return problem
    constraints = folder / "constraints.txt"
    constraints.write_text(constraints_for(folder.name.removeprefix(".venv-")))
    packages = ("-e", ".", *REQUIREMENTS, ipykernel())
    installing = (sys.executable, str(ROOT / "tools" / "install.py"), "--python", python_of(folder))
    if (problem := run_quietly(*installing, "-c", str(constraints), *packages)) is not None:
        return problem
    stamp.write_text(wanted)
    return None


def run_quietly(*command: str) -> str | None:
    """Run a program; the end of what it printed when it fails."""
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    output = [line for line in (ran.stdout + ran.stderr).splitlines() if not line.startswith("WARNING")]
    return None if ran.returncode == 0 else "\n".join(output[-20:])


def constraints_for(version: str) -> str:
    """The pins; upper bounds for an older Python, which the newest releases of many packages leave out."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    is_older = [int(part) for part in version.split(".")] < [int(part) for part in PINNED_ON.split(".")]
    return pins.replace("==", "<=") if is_older else pins


def project() -> dict[str, Any]:
    """The project's metadata, as pyproject.toml has it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def ipykernel() -> str:
    """The kernel as the package's extra asks for it, without the rest of JupyterLab."""
    return next(str(each) for each in project()["optional-dependencies"]["notebook"] if each.startswith("ipykernel"))


def fingerprint() -> str:
    """Changes when an environment has to be installed again, which settings of tools and most extras do not ask for."""
    metadata = {name: value for name, value in project().items() if name != "optional-dependencies"}
    packages = json.dumps([metadata, *REQUIREMENTS, ipykernel()], sort_keys=True)
    return hashlib.sha256(packages.encode() + (ROOT / "constraints.txt").read_bytes()).hexdigest()


def kernel_modules() -> list[str]:
    """Test modules marked kernel. Others are not even collected: they may import torch."""
    modules = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in modules if MARK.search(path.read_text(encoding="utf-8"))]


def python_of(folder: Path) -> str:
    """The environment's interpreter."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def clean_environment() -> dict[str, str]:
    """This process's, less what would lead the other interpreter to packages of this one."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


if __name__ == "__main__":
    sys.exit(main())
