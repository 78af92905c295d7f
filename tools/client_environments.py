"""Make the environments of the programs in tests/clients: one for each client, as what they need does not agree.

A Python client gets `.venv-clients/<name>` with its requirements.txt, a JavaScript one `node_modules` beside its
package.json. What is there already is left alone. Give names to make only those; `make test-clients` makes all.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
# guidellm imports torch for its data loader. It takes the one that is installed beside us: another would be gigabytes.
BORROWERS = ("guidellm",)
TIMEOUT_S = 1800


def main(names: list[str]) -> int:
    """Make what is missing; 0 when all is there."""
    known = sorted(path.name for path in CLIENTS.iterdir() if is_client(path))
    if unknown := sorted(set(names) - set(known)):
        print(f"There is no client {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    failed = [name for name in names or known if not make(CLIENTS / name)]
    if failed:
        print(f"The environments of {', '.join(failed)} could not be made.", file=sys.stderr)
    return 1 if failed else 0


def is_client(folder: Path) -> bool:
    """Whether a folder has a client's program."""
    return any((folder / name).is_file() for name in ("requirements.txt", "package.json"))


def make(client: Path) -> bool:
    """Make a client's environment, if what it needs has changed since; whether it is there."""
    is_python = (client / "requirements.txt").is_file()
    wanted = (client / ("requirements.txt" if is_python else "package.json")).read_text()
    made = ENVIRONMENTS / client.name if is_python else client / "node_modules"
    stamp = made / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return True
    print(f"Installing {client.name} into {made.relative_to(ROOT)} ...", flush=True)
    is_made = install_python(client, made) if is_python else install_javascript(client)
    if is_made:
        stamp.write_text(wanted)
    return is_made


def install_python(client: Path, made: Path) -> bool:
    """A virtual environment with a client in it."""
    python = made / "bin" / "python"
    if not run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(made)], client):
        return False
    if client.name in BORROWERS:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        lent = made / "lib" / version / "site-packages" / "lent.pth"
        lent.write_text(f"{where_torch_is()}\n")
        # uv does not see what is lent
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        return run([*pip, "-r", "requirements.txt"], client)
    program = str(Path(__file__).with_name("install.py"))
    return run([sys.executable, program, "--python", str(python), "-r", "requirements.txt"], client)


def where_torch_is() -> Path:
    """The folder that torch is installed in, of those this Python looks in."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise SystemExit("torch is not installed here. Run this with the Python of .venv, as make does.")
    return Path(found.origin).parents[1]


def install_javascript(client: Path) -> bool:
    """The packages of a package.json, beside it."""
    return run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"], client)


def run(command: list[str], folder: Path) -> bool:
    """Whether a command went well; it says itself what did not."""
    try:
        return subprocess.run(command, cwd=folder, timeout=TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as exc:
        print(exc, file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
