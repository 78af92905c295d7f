"""Fetch the files of other projects that ship in `llmapi_kit/vendored`, at the versions its manifest names.

    python tools/vendor.py            fetch them, and write licences and hashes into the manifest
    python tools/vendor.py --check    compare what is here with what the registry has; change nothing

For a newer version, change it in the manifest and run this. Needs npm. Only the files that the manifest lists are
taken, each unchanged; a file's name is the last part of its path in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "llmapi_kit" / "vendored"
MANIFEST = FOLDER / "manifest.json"
TIMEOUT_S = 300


def main() -> int:
    """Fetch or compare; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check = parser.parse_args().check
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    fetched = {package["name"]: fetch(package) for package in manifest["packages"]}
    if is_check:
        differing = [path for name, files in fetched.items() for path in compare(FOLDER / name, files)]
        print("\n".join(f"differs: {path}" for path in differing) or "All files are what the registry has.")
        return 1 if differing else 0
    for package in manifest["packages"]:
        write(package, fetched[package["name"]])
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return 0


def fetch(package: dict[str, Any]) -> dict[str, bytes]:
    """The listed files of a package by their paths in it, and its package.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{package['npm']}@{package['version']}", "--silent"]
        subprocess.run(command, cwd=folder, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            return {path: read(tar, f"package/{path}") for path in (*package["files"], "package.json")}


def read(tar: tarfile.TarFile, member: str) -> bytes:
    """A member's bytes.

    Raises:
        SystemExit: the package has no such file.
    """
    try:
        file = tar.extractfile(member)
    except KeyError:
        file = None
    if file is None:
        raise SystemExit(f"{tar.name} has no {member}: the package was rearranged. Change the manifest.")
    return file.read()


def write(package: dict[str, Any], files: dict[str, bytes]) -> None:
    """Put a package's files in place and bring its entry of the manifest up to date."""
    license_name = json.loads(files.pop("package.json"))["license"]
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    package.update(license=license_name, files=hashes)
    folder = FOLDER / package["name"]
    folder.mkdir(exist_ok=True)
    wanted = {Path(path).name for path in files}
    for old in [path for path in folder.iterdir() if path.name not in wanted]:
        old.unlink()
    for path, data in files.items():
        (folder / Path(path).name).write_bytes(data)
    print(f"{package['name']} {package['version']}: {sum(map(len, files.values())) / 1000:,.0f} kB")


def compare(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """The files that are missing here or differ from the fetched ones."""
    here = {folder / Path(path).name: data for path, data in files.items() if path != "package.json"}
    return [path for path, data in here.items() if not path.is_file() or path.read_bytes() != data]


if __name__ == "__main__":
    sys.exit(main())
