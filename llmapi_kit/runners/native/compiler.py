"""Compiles `decoder.c` for this machine, once, with the compiler that is there.

The library is kept in the user's cache folder under a name that changes with the source, the compiler and the
processor, so that a home shared by several machines holds one for each. Knows nothing of models. Blocking, about a
second the first time; any thread.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)

SOURCE_NAMES = (
    *("decoder.c", "experts.h", "pass.h", "attention.h", "arithmetic.h", "model.h", "adapters.h"),
    *("panels.h", "floats.h", "integers.h", "vectors.h", "team.h"),
)
SOURCES = tuple(Path(__file__).with_name(name) for name in SOURCE_NAMES)
COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math: with gcc it also changes how the whole process rounds tiny numbers.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-shared", "-fPIC")
TIMEOUT_S = 120


class NativeUnavailableError(Exception):
    """The library can't be made here; the message says why. Steps run in torch instead."""


@functools.cache
def load_library(*defines: str) -> ctypes.CDLL:
    """Compile, or find what was compiled before, and load it.

    Args:
        defines: macros to set.

    Raises:
        NativeUnavailableError: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or list(filter(None, map(shutil.which, COMPILERS)))[:1]
    if not compiler:
        raise NativeUnavailableError(f"there is no C compiler (none of {', '.join(COMPILERS)} is on PATH)")
    flags = (*FLAGS, *(f"-D{name}" for name in defines))
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=TIMEOUT_S).stdout
        digest = hashlib.sha256(
            b"\0".join(
                (
                    *(source.read_bytes() for source in SOURCES),
                    version,
                    _processor(),
                    repr((compiler[1:], flags)).encode(),
                )
            )
        )
        folder = Path(platformdirs.user_cache_dir("llmapi_kit", appauthor=False)) / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        library = folder / f"decoder-{digest.hexdigest()[:24]}.so"
        if not library.is_file():
            _compile(compiler, flags, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as exc:
        raise NativeUnavailableError(f"{shlex.join(compiler)} could not make it: {exc}") from exc


def _processor() -> bytes:
    """What the machine's code depends on: the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return repr(platform.uname()[4:]).encode()
    return "\n".join(
        dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features")))
    ).encode()


def _compile(compiler: list[str], flags: tuple[str, ...], library: Path) -> None:
    """Make the library; it appears under its name when it is complete."""
    logger.info("Compiling the native step with %s; the first time only", compiler[0])
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*compiler, *flags, str(SOURCES[0]), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        if done.returncode:
            raise NativeUnavailableError(f"{' '.join(command)} failed:\n{done.stderr[-1000:]}")
        os.replace(made, library)
