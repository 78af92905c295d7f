"""Plant faults in copies of the project, one at a time, and see whether the tests catch them.

The faults are in ``planted_faults.toml``, at least one for each room of the package. Each is applied to a temporary
copy of the working tree, in which the tests named with it are run: they must pass without the fault and fail with it.
Prints a table; the exit status is 0 when every fault was caught. Run it before and after a change to the tests: the
same faults have to be caught.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
FAULTS = Path(__file__).with_suffix(".toml")
# Ignored by git, needed by tests
INSTALLED = ("examples/javascript/node_modules",)
PASSED, FAILED, NO_TESTS = 0, 1, 5  # pytest's exit status; any other says nothing about the fault
TIMEOUT_S = 900
TIMEOUT_ALL_S = 3600


class FaultError(Exception):
    """A fault that can't be planted; the message says which and what to change."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One change that breaks something.

    Attributes:
        room: part of the package, such as ``engines/upstream``.
        file: below the project's root.
        old: text that stands once in the file.
        new: what takes its place.
        breaks: what no longer holds, in a sentence.
        tests: arguments of pytest: the tests that should notice.
    """

    room: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]

    def plant(self, root: Path) -> Callable[[], None]:
        """Apply it below `root`; returns what takes it back.

        Raises:
            FaultError: the file or the text is no longer there, or the text stands there more than once.
        """
        path = root / self.file
        if not path.is_file():
            raise FaultError(f"{self.file} is not there any more. Change the fault's file in {FAULTS.name}.")
        before = path.read_text(encoding="utf-8")
        if (num := before.count(self.old)) != 1:
            raise FaultError(
                f"{self.file} has this text {num} times, not once. Change the fault's old text in {FAULTS.name}:\n"
                f"{self.old}"
            )
        path.write_text(before.replace(self.old, self.new), encoding="utf-8")
        return lambda: _restore(path, before)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fault: ``caught``, ``survived``, or ``unknown`` with the reason in `detail`."""

    verdict: str
    seconds: float
    detail: str = ""


def main() -> int:
    """Run the command line; 0 when every chosen fault was caught."""
    arguments = _parse()
    faults = load_faults()
    if arguments.only:
        faults = {number: faults[number] for number in arguments.only if number in faults}
    if not faults:
        print(f"There is no such fault; {FAULTS.name} has 1 to {len(load_faults())}.", file=sys.stderr)
        return 2
    if arguments.list:
        for number, fault in faults.items():
            print(f"{number:3}  {fault.room:16} {fault.file}: {fault.breaks}")
        return 0
    try:
        _check_all(faults)
    except FaultError as exc:
        print(exc, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="planted-faults-") as folder:
        copies = [_copy_tree(Path(folder) / str(number)) for number in range(arguments.jobs)]
        if not (arguments.skip_clean or arguments.all_tests) and not _is_clean(faults, copies[0]):
            return 2
        options = ("-x", "-m", "not slow") if arguments.fast else ("-x",)
        return _run(faults, copies, options, has_all_tests=arguments.all_tests)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plant faults, one at a time, and see whether the tests catch them.")
    parser.add_argument("--list", action="store_true", help="list the faults and run nothing")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of faults, as --list shows them")
    parser.add_argument("--all-tests", action="store_true", help="run every test against each fault: takes hours")
    parser.add_argument("--fast", action="store_true", help="only tests that are not marked slow")
    parser.add_argument("--skip-clean", action="store_true", help="do not first run the tests without a fault")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="faults to try at once, each in its own copy")
    return parser.parse_args()


def load_faults() -> dict[int, Fault]:
    """The faults by number, from 1."""
    with FAULTS.open("rb") as file:
        entries = tomllib.load(file)["fault"]
    return {n: Fault(**{**entry, "tests": tuple(entry["tests"])}) for n, entry in enumerate(entries, 1)}


def _check_all(faults: dict[int, Fault]) -> None:
    """Find out about every stale fault before the first test runs."""
    problems = []
    for number, fault in faults.items():
        text = (ROOT / fault.file).read_text(encoding="utf-8") if (ROOT / fault.file).is_file() else ""
        if text.count(fault.old) != 1:
            problems.append(
                f"Fault {number}: {fault.file} has this text {text.count(fault.old)} times, not once:\n{fault.old}"
            )
        missing = [test for test in fault.tests if not (ROOT / test.partition("::")[0]).exists()]
        problems += [f"Fault {number}: there is no {test}" for test in missing]
    if problems:
        raise FaultError("\n".join([*problems, "", f"Change these faults in {FAULTS.name}."]))


def _is_clean(faults: dict[int, Fault], copy: Path) -> bool:
    """Whether the named tests pass without a fault; else says what they print."""
    named = sorted({test for fault in faults.values() for test in fault.tests})
    status, output = _pytest(copy, named, TIMEOUT_ALL_S)
    if status != PASSED:
        print(f"The tests do not pass without a fault (pytest exit {status}):\n{output[-3000:]}", file=sys.stderr)
    return status == PASSED


def _run(faults: dict[int, Fault], copies: Sequence[Path], options: Sequence[str], *, has_all_tests: bool) -> int:
    outcomes: dict[int, Outcome] = {}
    free, lock = list(copies), threading.Lock()

    def try_out(number: int) -> None:
        with lock:
            copy = free.pop()
        outcome = _outcome(faults[number], copy, options, has_all_tests=has_all_tests)
        with lock:
            free.append(copy)
            outcomes[number] = outcome
            print(_line(number, faults[number], outcome), flush=True)

    with ThreadPoolExecutor(len(copies)) as pool:
        list(pool.map(try_out, faults))
    missed = [number for number in faults if outcomes[number].verdict != "caught"]
    print(f"\n{len(faults) - len(missed)} of {len(faults)} faults were caught.")
    for number in missed:
        print(_line(number, faults[number], outcomes[number]))
        print(outcomes[number].detail)
    return int(bool(missed))


def _outcome(fault: Fault, copy: Path, options: Sequence[str], *, has_all_tests: bool) -> Outcome:
    started = time.monotonic()
    take_back = fault.plant(copy)
    try:
        tests = ("tests",) if has_all_tests else fault.tests
        status, output = _pytest(copy, (*options, *tests), TIMEOUT_ALL_S if has_all_tests else TIMEOUT_S)
    finally:
        take_back()
    verdict = {PASSED: "survived", NO_TESTS: "survived", FAILED: "caught"}.get(status, "unknown")
    return Outcome(verdict, time.monotonic() - started, "" if verdict == "caught" else output[-2000:])


def _pytest(copy: Path, arguments: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run pytest in a copy; its exit status and what it printed. The copy's modules hide the installed ones."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            [*command, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return -1, f"pytest did not end within {timeout_s} s"
    return ran.returncode, ran.stdout + ran.stderr


def _copy_tree(target: Path) -> Path:
    """What git knows, and what it would add, at `target`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a file that was removed is listed until that is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for name in INSTALLED:
        if (ROOT / name).is_dir():
            (target / name).symlink_to(ROOT / name)
    return target


def _restore(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _line(number: int, fault: Fault, outcome: Outcome) -> str:
    return f"{number:3}  {outcome.verdict:8} {outcome.seconds:5.0f} s  {fault.room:16} {fault.breaks}"


if __name__ == "__main__":
    sys.exit(main())
