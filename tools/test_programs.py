"""Install the programs that tests run beside Python: Chromium, PostgreSQL, OpenSSH, curl, Java, Node, npm packages.

What is there already is left alone; the rest comes from apt, which needs root. Without apt, says what to install by
hand. `make test` runs it. CHROMIUM names a Chromium that is not on PATH. Of Chromium it installs the program without a
window, whose pages cost half as much time; where a whole Chromium is already, that will do.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODE_FOLDERS = (ROOT / "examples" / "javascript", ROOT / "tests" / "browser")
# What a test runs: apt's package for it, or packages of which one will do
PROGRAMS = {
    "chromium": "chromium-headless-shell | chromium",
    "postgres": "postgresql",
    "curl": "curl",
    "java": "default-jdk-headless",
    "node": "nodejs",
    "npm": "npm",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
# Where Debian keeps what it leaves out of PATH, or calls by another name
ELSEWHERE = {
    "chromium": "/usr/bin/chromium-headless-shell",
    "postgres": "/usr/lib/postgresql/*/bin/postgres",
    "sshd": "/usr/sbin/sshd",
}
TIMEOUT_S = 1800


def main() -> int:
    """Install what is missing; 0 when everything is there."""
    missing = [name for name in PROGRAMS if not is_there(name)]
    if missing and (problem := install([PROGRAMS[name] for name in missing])) is not None:
        print(f"The tests need {', '.join(missing)}, and apt could not bring them: {problem}", file=sys.stderr)
        print(f"Install them by hand (Debian's packages: {', '.join(PROGRAMS[name] for name in missing)}).")
        return 1
    print("Installing npm packages ...", flush=True)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    folders = [folder for folder in NODE_FOLDERS if (folder / "package.json").is_file()]
    return max(subprocess.run(npm, cwd=folder, timeout=TIMEOUT_S).returncode for folder in folders) if folders else 0


def is_there(name: str) -> bool:
    """Whether a program can be run."""
    chosen = os.environ.get(name.upper(), name)
    return shutil.which(chosen) is not None or bool(name in ELSEWHERE and glob.glob(ELSEWHERE[name]))


def install(packages: list[str]) -> str | None:
    """Have apt bring packages; what went wrong, if anything did."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    print(f"Installing {', '.join(packages)} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "satisfy", "-y", "-qq", *packages]):
        ran = subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S
        )
        if ran.returncode:
            return ran.stderr.strip()[-500:] or f"{' '.join(command[:2])} failed"
    return None


if __name__ == "__main__":
    sys.exit(main())
