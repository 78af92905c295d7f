"""What the processes that the kit starts inherit: where Python and its libraries are, and nothing that is secret."""

from __future__ import annotations

import os
import sys

INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")


def child_environment(*names: str, **variables: str) -> dict[str, str]:
    """The environment of a child process that imports what this one can import.

    Args:
        names: of further variables to inherit, where they are set.
        variables: to set.
    """
    inherited = {name: os.environ[name] for name in (*INHERITED, *names) if name in os.environ}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
