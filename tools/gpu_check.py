"""Check the kit on a GPU: the tests marked ``gpu`` and a short benchmark, in under 7 minutes.

Each part runs in a process of its own with a time limit; one that hangs or crashes doesn't stop the others. Prints a
table and writes ``gpu-check.json``. The exit status is 0 when every part passed, 1 when one did not, and 2 when nothing
could be checked: no GPU, or packages are missing. A part that can't run here counts as not passed, unless ``--without``
leaves it out on purpose.

Needs Python with a torch that sees the GPU, and nothing else to start: it names the packages that are missing, and
``--install`` installs them beside that torch. ``make gpu-check`` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEVICE_VARIABLE = "LLMAPI_KIT_GPU_CHECK_DEVICE"  # "cpu" tries the parts themselves, where there is no GPU
TOTAL_S = 410.0
INSTALL_TIMEOUT_S = 1800
ERROR_LINES = 25
SHOWN_VERSIONS = ("torch", "transformers", "bitsandbytes", "accelerate", "triton")
EXTRAS = "torch,testing"
EIGHT_BIT = ("bitsandbytes", "accelerate")
BESIDE = ("pytest-timeout",)  # pyproject.toml sets it, so pytest stops without it

# Prints what torch sees; in a process of its own, as a broken driver can hang or end it
PROBE = """
import json, os, torch
name = os.environ.get("LLMAPI_KIT_GPU_CHECK_DEVICE", "cuda:0")
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": None}
if name == "cpu":
    found["device"] = "cpu"
elif torch.cuda.is_available():
    card = torch.cuda.get_device_properties(name)
    found.update(device=card.name, capability=[card.major, card.minor], memory_gib=round(card.total_memory / 2**30, 1),
                 num_devices=torch.cuda.device_count())
    torch.zeros(8, device=name).sum().item()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Part:
    """Something to check.

    Attributes:
        name: in the table and for ``--without``.
        command: what runs; the last line of JSON that it prints holds its figures.
        limit_s: after which it is killed, with all its children.
        packages: without which it can't run.
        is_cuda_only: whether it has no meaning on a CPU.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    packages: Sequence[str] = ()
    is_cuda_only: bool = False


@dataclass
class Result:
    """What came of a part.

    Attributes:
        name: of the part.
        status: ``passed``, ``failed``, ``crashed`` (ended by a signal), ``timed out`` or ``not run``.
        duration_s: how long it ran.
        limit_s: how long it might have run.
        figures: the JSON that it printed last.
        error: the last lines of its output, or why it was not run; empty for one that passed.
    """

    name: str
    status: str
    duration_s: float = 0.0
    limit_s: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    error: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Everything, as it is written to ``gpu-check.json``."""

    passed: bool = False
    reason: str = ""
    started: str = ""
    duration_s: float = 0.0
    device: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    parts: list[Result] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write what is known by now, so that it is there even when the machine goes away."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def parts() -> list[Part]:
    """What is checked, and how long it may take; less than 7 minutes together."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "tests.gpu.report", "-p", "no:cacheprovider"]
    pytest += ["-W", "default"]  # other versions than the pinned ones may warn
    benchmark = [sys.executable, "-m", "benchmarks.gpu", "--short"]
    return [
        Part("equality", [*pytest, "tests/gpu/test_equality.py"], 130),
        Part("memory", [*pytest, "tests/gpu/test_memory.py"], 50),
        Part("8-bit", [*pytest, "tests/gpu/test_eight_bit.py"], 60, EIGHT_BIT, is_cuda_only=True),
        Part("benchmark", benchmark, 150),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print and write; see the module for the exit status."""
    arguments = _parse(argv)
    report = Report(started=time.strftime("%Y-%m-%dT%H:%M:%S%z"), left_out=arguments.without, versions=_versions())
    problem = install() if arguments.install else None
    started = time.monotonic()  # installing doesn't count
    problem = problem or what_is_missing() or probe(report)
    if problem is None:
        report.versions = _versions()
        print(f"{report.device['device']}, " + ", ".join(f"{k} {v}" for k, v in report.versions.items()), flush=True)
        run_all([each for each in parts() if each.name not in arguments.without], report, arguments.output, started)
        report.passed = bool(report.parts) and all(each.status == "passed" for each in report.parts)
        print("\n" + table(report.parts))
        print("Passed." if report.passed else "NOT passed.", f"Written to {arguments.output}.")
    else:
        report.reason = problem
        print(f"{problem}\nNothing was checked.", file=sys.stderr)
    report.duration_s = round(time.monotonic() - started, 1)
    report.write(arguments.output)
    return 2 if problem else int(not report.passed)


def run_all(chosen: Sequence[Part], report: Report, output: Path, started: float, total_s: float = TOTAL_S) -> None:
    """Run one part after the other, each within its limit and all within theirs."""
    for part in chosen:
        limit_s = min(part.limit_s, started + total_s - time.monotonic())
        print(f"{part.name}, at most {max(0, limit_s):.0f} s ...", flush=True)
        report.parts.append(_reason_against(part, limit_s, report) or run_part(part, limit_s))
        report.duration_s = round(time.monotonic() - started, 1)
        report.write(output)


def _reason_against(part: Part, limit_s: float, report: Report) -> Result | None:
    """The result of a part that can't run."""
    missing = [name for name in part.packages if _version(name) is None]
    if report.device.get("device") == "cpu" and part.is_cuda_only:
        return Result(part.name, "not run", error=["It runs on CUDA only."])
    if missing:
        advice = f"--install installs them; --without {part.name} leaves this part out."
        return Result(part.name, "not run", error=[f"Not installed: {', '.join(missing)}. {advice}"])
    if limit_s <= 0:
        return Result(part.name, "not run", error=[f"The {TOTAL_S:.0f} s for everything were used up."])
    return None


def run_part(part: Part, limit_s: float) -> Result:
    """Run a part in a process group of its own, which is killed as a whole."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:  # not a pipe, which a child left behind would keep open
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            returncode: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            returncode = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # children too that outlived it
            process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    result = Result(part.name, "passed", round(time.monotonic() - started, 1), round(limit_s, 1), _figures(lines))
    if returncode != 0:
        result.status = "timed out" if returncode is None else "crashed" if returncode < 0 else "failed"
        result.error = lines[-ERROR_LINES:] or [f"It printed nothing; exit status {returncode}."]
    elif not result.figures:
        result.status, result.error = "failed", ["It printed no figures.", *lines[-ERROR_LINES:]]
    return result


def _figures(lines: Sequence[str]) -> dict[str, Any]:
    """The last line that is a JSON object."""
    for line in reversed(lines):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                return dict(json.loads(line))
    return {}


def probe(report: Report) -> str | None:
    """Note the device in the report; why there is none, in words."""
    result = run_part(Part("device", [sys.executable, "-c", PROBE], 60), 60)
    if result.status != "passed":
        return "torch could not be asked for a GPU: " + "\n".join([result.status, *result.error])
    report.device = result.figures
    if report.device["device"] is None:
        cuda = report.device["cuda"]
        why = f"which is built for CUDA {cuda}: see `nvidia-smi`" if cuda else "which is built without CUDA"
        return f"There is no GPU that torch sees here (torch {report.device['torch']}, {why})."
    return None


def what_is_missing() -> str | None:
    """The packages that are not installed, and how to install them, in words."""
    missing = [name for name in requirements() if _version(name) is None]
    if not missing:
        return None
    return (
        f"Not installed in {sys.executable}: {', '.join(missing)}.\n"
        "`python tools/gpu_check.py --install` installs them beside the torch that is there."
    )


def requirements() -> list[str]:
    """Names of the packages that the parts need, from pyproject.toml. Read by hand: Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = []
    for block in ("dependencies", *EXTRAS.split(",")):
        found = re.search(rf"^{block} = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE)
        names += re.findall(r'"([A-Za-z0-9._-]+)', found.group(1)) if found else []
    return [*names, *BESIDE]


def install() -> str | None:
    """Install what is missing into this Python; the end of pip's output where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        torch = _version("torch")  # stays: another one might not fit the driver
        constraints.write_text(f"torch=={torch}\n" if torch else "")
        command = [sys.executable, "-m", "pip", "install", "-c", str(constraints), "-e", f".[{EXTRAS},quant]", *BESIDE]
        print("Installing ...", flush=True)
        result = run_part(Part("install", [*command, "--progress-bar", "off"], INSTALL_TIMEOUT_S), INSTALL_TIMEOUT_S)
    is_installed = result.status == "passed" or result.error[:1] == ["It printed no figures."]
    return None if is_installed else "\n".join(["pip failed:", *result.error])


def table(results: Sequence[Result]) -> str:
    """A line for each part, then the figures and errors."""
    lines = [f"{'part':<12}{'status':<12}{'seconds':>8}{'limit':>8}"]
    lines += [f"{each.name:<12}{each.status:<12}{each.duration_s:>8.0f}{each.limit_s:>8.0f}" for each in results]
    for each in results:
        if each.figures:
            lines += ["", f"{each.name}:", *(f"  {name}: {value}" for name, value in each.figures.items())]
        if each.error:
            lines += ["", f"{each.name} {each.status}:", *(f"  {line}" for line in each.error)]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python, **{name: found for name in SHOWN_VERSIONS if (found := _version(name))}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="first install what is missing into this Python")
    names = [each.name for each in parts()]
    parser.add_argument("--without", action="append", default=[], choices=names, help="leave a part out")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"), help="default: gpu-check.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
