"""Run as a script between the tunnel's thread and the agent: ties the agent to its owner, then becomes it.

    python -I -S launcher.py PID_FILE OWNER_PID DROPPED_VARIABLES AGENT [ARGUMENT ...]

Because it ends in `exec`, its process id, its output and its parent are the agent's: whoever started it
holds the agent itself. It imports nothing of the kit, so that it starts fast and whatever the environment
looks like.

What it gives: on Linux the kernel kills the agent (SIGKILL) as soon as the thread that started it ends,
which includes a `kill -9` of that thread's process. Elsewhere there is no such call; there the pid file it
writes lets the next start end an agent whose owner is gone. On every system the agent does not inherit the
variables named in DROPPED_VARIABLES (comma-separated).
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_owner(owner_pid: int) -> bool:
    """Ask Linux to kill this process when its parent thread ends. False if the owner is gone already."""
    if sys.platform.startswith("linux"):
        try:
            import ctypes  # not every Python has it

            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        except (ImportError, OSError, AttributeError):
            pass  # a Python without ctypes: the pid file is what remains
    return os.getppid() == owner_pid  # it may have ended before the call above


def main(arguments: list[str]) -> int:
    """Tie, record, drop variables, become the agent. Returns only on failure."""
    pid_file, owner_pid, dropped, agent, *agent_arguments = arguments
    if not die_with_owner(int(owner_pid)):
        return 3
    try:
        # The folder vanishes when the tunnel is stopped; a launcher that comes late then ends here.
        descriptor = os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return 3
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{os.getpid()}\n")
    for name in dropped.split(","):
        os.environ.pop(name, None)
    try:
        os.execv(agent, [agent, *agent_arguments])  # noqa: S606 - becoming the agent is the point
    except OSError as exc:
        problem = str(exc).replace('"', "'")
        sys.stdout.write(f'lvl=eror msg="the agent program can not be run" err="{problem}"\n')
    return 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
